"""The pool of connections to one database: made when they are needed, and kept for whoever needs one next.

In place of aiomysql's pool, which holds a lock while it connects, starts a task for each connection that is released,
and wakes nobody when that one is closed.
"""

import time
from collections.abc import Mapping
from typing import Any

import aiomysql
from pymysql.constants import CLIENT

# Firewalls and balancers forget idle connections after some minutes, and tell neither end.
_IDLE_MAX_S = 60.0


class Connection(aiomysql.Connection):  # type: ignore[misc]
    """aiomysql's, which does not go on in plain text when it is to encrypt: the password would come next."""

    async def _request_authentication(self) -> None:
        if self._ssl_context and not self.server_capabilities & CLIENT.SSL:
            raise ConnectionError("The database has no TLS.")
        await super()._request_authentication()

    @property
    def is_usable(self) -> bool:
        """Whether it can be given to somebody: the server has not hung up, and no transaction is open."""
        return not (
            self.closed
            or self._reader.at_eof()
            or self._reader.exception()
            # MySQL says why before it hangs up, so that there is something to read yet.
            or self._reader.eof_received
            or self.get_transaction_status()
        )


class ConnectionPool:
    """:param address: the arguments of ``aiomysql.connect``
    :param session: a statement with which each new connection begins
    """

    def __init__(self, address: Mapping[str, Any], session: str) -> None:
        self._address = address
        self._session = session
        # The one that was released last at the end, each with the time.
        self._free: list[tuple[float, Connection]] = []
        self._is_closed = False

    async def acquire(self) -> Connection:
        """One that nobody else has. Raises MySQLError and OSError."""
        while self._free:
            since, connection = self._free.pop()
            if connection.is_usable and time.monotonic() - since < _IDLE_MAX_S:
                return connection
            connection.close()
        return await self._open()

    def release(self, connection: Connection) -> None:
        """Keep it for the next, unless it is closed or in the middle of something."""
        if not self._is_closed and connection.is_usable:
            self._free.append((time.monotonic(), connection))
        else:
            connection.close()

    def close(self) -> None:
        """Close those that nobody has, and the others when they are released."""
        self._is_closed = True
        while self._free:
            self._free.pop()[1].close()

    async def _open(self) -> Connection:
        connection = Connection(**self._address)
        try:
            await connection._connect()
            async with connection.cursor() as cursor:
                await cursor.execute(self._session)
        except BaseException:
            connection.close()
            raise
        return connection
