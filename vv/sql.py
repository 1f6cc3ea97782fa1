"""A plain connection to a database, for work that is not a service's."""

import ssl
from typing import Any

import pymysql

from common.database_url import parse_database_url

_CONNECT_WITHIN_S = 5


def connect(url: str, tls: ssl.SSLContext | None = None, **options: Any) -> Any:
    """Connect to the database that a URL names, with ``tls`` where it names no files. Raises pymysql.MySQLError."""
    address = parse_database_url(url, tls)
    wants_tls = "ssl" in address
    connection: Any = pymysql.connect(
        database=address.pop("db"), connect_timeout=_CONNECT_WITHIN_S, charset="utf8mb4", **address, **options
    )
    # PyMySQL goes on without TLS, and says nothing, when the server has none.
    if wants_tls and not connection._secure:
        connection.close()
        raise pymysql.OperationalError(2026, "it has no TLS")
    return connection
