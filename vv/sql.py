"""A plain connection to a database, for work that is not a service's."""

import ssl
from typing import Any

import pymysql
from pymysql.connections import Connection as PlainConnection
from pymysql.constants import CLIENT

from common.database_url import parse_database_url

_CONNECT_WITHIN_S = 5


class _Connection(PlainConnection):
    """PyMySQL's, which does not go on in plain text when it is to encrypt: the password would come next."""

    def _request_authentication(self) -> None:
        if self.ssl and not self.server_capabilities & CLIENT.SSL:  # type: ignore[attr-defined]
            raise pymysql.OperationalError(2026, "it has no TLS")
        super()._request_authentication()  # type: ignore[misc]


def connect(url: str, tls: ssl.SSLContext | None = None, **options: Any) -> Any:
    """Connect to the database that a URL names, with ``tls`` where it names no files. Raises pymysql.MySQLError."""
    address = parse_database_url(url, tls)
    return _Connection(
        database=address.pop("db"), connect_timeout=_CONNECT_WITHIN_S, charset="utf8mb4", **address, **options
    )
