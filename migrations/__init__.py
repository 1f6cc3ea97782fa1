"""Versioned SQL, one folder a service, one statement a file, each with its ``.rollback.sql``."""
