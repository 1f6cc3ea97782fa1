"""A plain connection to a database, for work that is not a service's."""

from typing import Any

import pymysql

from common.database_url import parse_database_url

_CONNECT_WITHIN_S = 5
_BAD_HANDSHAKE = 1043


def connect(url: str, **options: Any) -> Any:
    """Connect to the database that a URL names. Raises pymysql.MySQLError."""
    address = parse_database_url(url)
    wants_tls = "ssl" in address
    try:
        connection: Any = pymysql.connect(
            database=address.pop("db"), connect_timeout=_CONNECT_WITHIN_S, charset="utf8mb4", **address, **options
        )
    except pymysql.OperationalError as error:
        if wants_tls and error.args[0] == _BAD_HANDSHAKE:
            raise _no_tls() from error
        raise
    # PyMySQL goes on without TLS, and says nothing, when the server has none. MySQL does not take that, MariaDB does.
    if wants_tls and not connection._secure:
        connection.close()
        raise _no_tls()
    return connection


def _no_tls() -> pymysql.OperationalError:
    return pymysql.OperationalError(2026, "it has no TLS")
