"""How a database is named: one URL."""

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


def parse_database_url(url: str) -> dict[str, Any]:
    """``mysql://user:password@host:port/name?unix_socket=/path`` as arguments of ``aiomysql.connect``.

    Raises ValueError with a sentence that does not contain the password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("mysql", "mariadb") or not parts.path.strip("/"):
        raise ValueError("must look like mysql://user:password@host:port/name")
    try:
        port = parts.port or 3306
    except ValueError:
        # Its message has what stands there, which is a piece of a password that was not quoted.
        raise ValueError("must have a number for a port, and quote / : @ in its password (%2F %3A %40)") from None
    options = parse_qs(parts.query)
    unknown = options.keys() - {"unix_socket"}
    if unknown:
        raise ValueError(f"has unknown options: {', '.join(sorted(unknown))}")
    address: dict[str, Any] = {
        "host": parts.hostname or "127.0.0.1",
        "port": port,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "db": parts.path.strip("/"),
    }
    if "unix_socket" in options:
        address["unix_socket"] = options["unix_socket"][0]
    return address
