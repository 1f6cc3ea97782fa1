"""yoyo's MySQL backend without what gets in our way, and with what a migration that was killed calls for."""

from datetime import UTC, datetime
from typing import Any

from yoyo.backends.core.mysql import MySQLBackend
from yoyo.connections import parse_uri
from yoyo.migrations import default_migration_table

from vv import sql

_SCHEMA_VERSION = 2
# Operations in yoyo's log that are ours: begun, and not ended yet. The column has ten characters.
APPLYING = "applying"
UNDOING = "undoing"


class Backend(MySQLBackend):  # type: ignore[misc]
    """A connection to a database that is being migrated.

    yoyo's own asks the server for its SQL mode before it quotes a name, creates and drops a table to learn whether
    DDL is transactional (on MySQL and MariaDB it never is), and wants to know the name of the user and of the host
    for its log, which fails where the user has no name and takes seconds where the name server does not answer.
    """

    def __init__(self, url: str, migration_table: str = default_migration_table) -> None:
        # yoyo itself passes a parsed URL when it makes a copy.
        super().__init__(parse_uri(url) if isinstance(url, str) else url, migration_table)
        self.has_transactional_ddl = False

    def connect(self, dburi: Any) -> Any:
        return sql.connect(dburi.uri)

    def quote_identifier(self, identifier: str) -> str:
        return f"`{identifier}`"

    def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
        return {
            "id": self._one("SELECT UUID()"),
            "migration_id": migration.id if migration else None,
            "migration_hash": migration.hash if migration else None,
            "username": self._one("SELECT CURRENT_USER()"),
            "hostname": "",
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }

    def take_lock(self, wait_s: int) -> bool:
        """Take a lock that lasts as long as this connection, waiting for it ``wait_s`` seconds at most."""
        # MySQL allows names of 64 characters.
        name = f"vv_migrate:{self.uri.database}"[:64]
        return bool(self._one("SELECT GET_LOCK(:name, :wait_s)", {"name": name, "wait_s": wait_s}))

    def break_stale_lock(self) -> int | None:
        """Remove yoyo's lock row, if there is one, and return the process id in it.

        While we hold :meth:`take_lock` no vv migrates, here or on another machine, so it is left over. Looking for
        the process would be no help: in containers every process is number 1 or 7.
        """
        self.execute(
            "CREATE TABLE IF NOT EXISTS yoyo_lock "
            "(locked INT DEFAULT 1, ctime TIMESTAMP, pid INT NOT NULL, PRIMARY KEY (locked))"
        )
        holder: int | None = self._one("SELECT pid FROM yoyo_lock")
        if holder is not None:
            self.break_lock()
        self.connection.commit()
        return holder

    def discard_half_made_bookkeeping(self) -> bool:
        """Drop yoyo's tables when it was killed while creating them: it cannot go on from there by itself.

        Its version is noted last and nothing is applied before it, so nothing is lost.
        """
        tables = {"_yoyo_migration", "_yoyo_log", "_yoyo_version"} & set(self.list_tables())
        complete = "_yoyo_version" in tables and self._one("SELECT MAX(version) FROM _yoyo_version") == _SCHEMA_VERSION
        if tables and not complete:
            self.execute(f"DROP TABLE {', '.join(sorted(tables))}")
        self.connection.commit()
        return bool(tables) and not complete

    def has_begun(self, migration: Any, direction: str) -> bool:
        """Whether a run that was killed had begun to apply or to undo ``migration``."""
        count = self._one(
            "SELECT COUNT(*) FROM _yoyo_log WHERE migration_hash = :hash AND operation = :operation",
            {"hash": migration.hash, "operation": _begun(direction)},
        )
        self.connection.commit()
        return bool(count)

    def note_beginning(self, migration: Any, direction: str) -> None:
        for noted in ("apply", "rollback"):
            self._forget_beginning(migration, noted)
        self.execute(self.format_sql(self.log_migration_sql), self.get_log_data(migration, operation=_begun(direction)))
        self.connection.commit()

    def note_end(self, migration: Any, direction: str) -> None:
        self._forget_beginning(migration, direction)
        self.connection.commit()

    def note_done(self, migration: Any, direction: str) -> None:
        """Note as applied or undone what a run that was killed had carried out."""
        self.rollback()
        with self.transaction():
            if direction == "apply":
                self.mark_one(migration)
            else:
                self.unmark_one(migration)

    def _forget_beginning(self, migration: Any, direction: str) -> None:
        self.execute(
            "DELETE FROM _yoyo_log WHERE migration_hash = :hash AND operation = :operation",
            {"hash": migration.hash, "operation": _begun(direction)},
        )

    def _one(self, sql: str, params: dict[str, Any] | None = None) -> Any:
        row = self.execute(sql, params).fetchone()
        return row[0] if row else None


def _begun(direction: str) -> str:
    return {"apply": APPLYING, "rollback": UNDOING}[direction]
