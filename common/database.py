"""The database kit: one pool, whole transactions that are run again when the server asks for it, plain SQL.

The facts about aiomysql that this module works around are in ``docs/decisions.md``.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pymysql.err import MySQLError

from common import tracing
from common.connection_pool import ConnectionPool
from common.context import seconds_left
from common.database_url import parse_database_url
from common.errors import DatabaseUnavailable, Overloaded
from common.telemetry import Metrics, log
from common.transaction import Transaction

if TYPE_CHECKING:
    from common.settings import ServiceSettings

T = TypeVar("T")

# The transaction did not happen and may be run again: lock wait timeout, deadlock, record changed since last read.
_NOT_APPLIED = {1205, 1213, 1020}
# The connection is gone, or the COMMIT failed half-way. What happened is unknown; running the transaction again
# is right all the same, because the unique keys decide (design rule 6).
_AMBIGUOUS = {0, 1053, 1180, 1927, 2003, 2006, 2013, 2055, 4031}
_RUN_AGAIN = _NOT_APPLIED | _AMBIGUOUS
# Too many connections, no TLS, wrong account or database, read-only, out of space, query killed, TLS missing: the
# server's state, not ours.
_REFUSING_SERVER = {1021, 1040, 1043, 1044, 1045, 1047, 1049, 1114, 1129, 1203, 1226, 1290, 1317, 1836, 3159}
_RUNS_AT_MOST = 6
# MySQL warns, in every session, of a strict mode without all of those about zeros.
_SQL_MODE = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
# A server that is alive greets at once; the time is for a network that lost a packet or two.
CONNECT_WITHIN_S = 5.0


class Database:
    """A pool of connections to one database, with ``tls`` unless its URL has something else to say."""

    def __init__(
        self,
        url: str,
        metrics: Metrics,
        *,
        pool_size_max: int,
        pool_wait_s: float,
        lock_wait_s: int,
        transaction_timeout_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        address = parse_database_url(url, tls)
        self._metrics = metrics
        metrics.pool_max.set(pool_size_max)
        self._pool_wait_s = pool_wait_s
        self._transaction_timeout_s = transaction_timeout_s
        self._slots = asyncio.Semaphore(pool_size_max)
        self._pool = ConnectionPool(
            {
                # Autocommit, so that a connection given back keeps neither a snapshot nor row locks.
                "autocommit": True,
                "charset": "utf8mb4",
                # Not aiomysql's, which leaves out the greeting, and whose wait_for may swallow a cancellation (3.11).
                "connect_timeout": None,
                "init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
                **address,
            },
            f"SET SESSION innodb_lock_wait_timeout = {lock_wait_s:d}, time_zone = '+00:00', sql_mode = '{_SQL_MODE}'"
            # Or MariaDB may read, and lock, a whole table for a list of 1,000 keys. To MySQL this is a comment.
            "/*M! , in_predicate_conversion_threshold = 0 */",
        )

    @classmethod
    def from_settings(cls, settings: "ServiceSettings", metrics: Metrics, tls: ssl.SSLContext | None) -> Self:
        return cls(
            settings.database_url.get_secret_value(),
            metrics,
            pool_size_max=settings.pool_size_max,
            pool_wait_s=settings.pool_wait_s,
            lock_wait_s=settings.lock_wait_s,
            transaction_timeout_s=settings.transaction_timeout_s,
            tls=tls,
        )

    async def __aenter__(self) -> Self:
        """Connections are made when they are first needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.close()

    async def transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run ``work`` in a transaction and commit; run it again as a whole when the server says so.

        ``work`` must bear being run more than once, also after a COMMIT of which nobody knows whether it took
        effect: unique keys make sure of it. Raises what ``work`` raises (after a ROLLBACK), DatabaseUnavailable
        (the outcome is unknown) and Overloaded (nothing was done).
        """
        was_lost = False
        for run in range(1, _RUNS_AT_MOST + 1):
            try:
                with tracing.span("transaction", "CLIENT", {"vv.transaction.run": run}) as span:
                    async with self._cursor() as cursor:
                        tx = Transaction(cursor, is_rerun=run > 1, was_lost=was_lost, span=span)
                        tx.defer("BEGIN")
                        result = await work(tx)
                        if not tx.is_committed:
                            await tx.commit()
                        return result
            except (MySQLError, OSError, TimeoutError) as error:
                errno = _errno(error)
                if errno not in _RUN_AGAIN or run == _RUNS_AT_MOST:
                    raise self._as_service_error(error) from error
                self._metrics.transaction_retries.labels(str(errno)).inc()
                log.debug("transaction_run_again", errno=errno, run=run)
                was_lost = was_lost or errno in _AMBIGUOUS
            await asyncio.sleep(random.uniform(0, 0.005 * 2**run))
        raise AssertionError("unreachable")

    async def read(self, query: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run plain reads, each seeing what is committed when it starts. Raises as :meth:`transaction` does."""
        try:
            with tracing.span("read", "CLIENT") as span:
                async with self._cursor() as cursor:
                    return await query(Transaction(cursor, span=span))
        except (MySQLError, OSError, TimeoutError) as error:
            raise self._as_service_error(error) from error

    def readiness(self, revision: str) -> Callable[[], Awaitable[str | None]]:
        """What ``/readyz`` asks: why the database cannot be used yet, or ``None`` when it is there and migrated."""

        async def why_not_ready() -> str | None:
            try:
                async with asyncio.timeout(2):
                    applied = await self.read(
                        lambda tx: tx.fetch_one("SELECT 1 FROM _yoyo_migration WHERE migration_id = %s", (revision,))
                    )
            except Overloaded:
                # Busy is not broken: taking a service out of rotation for its load only moves the load.
                return None
            except (DatabaseUnavailable, TimeoutError):
                return "The database does not answer."
            except MySQLError:
                applied = None
            return None if applied else f"The database lacks the migration {revision}; run: vv migrate apply"

        return why_not_ready

    def _as_service_error(self, error: Exception) -> Exception:
        """Outages become DatabaseUnavailable; a statement that the server refuses is a bug and stays what it is."""
        errno = _errno(error)
        if isinstance(error, OSError | TimeoutError) or errno in _RUN_AGAIN | _REFUSING_SERVER:
            self._metrics.database_failures.labels("timeout" if errno is None else str(errno)).inc()
            log.warning("database_unavailable", errno=errno, error=type(error).__name__)
            return DatabaseUnavailable(retry_after_s=1)
        return error

    @asynccontextmanager
    async def _cursor(self) -> AsyncIterator[Any]:
        async with self._connection() as connection:
            try:
                async with asyncio.timeout(self._transaction_timeout_s):
                    async with connection.cursor() as cursor:
                        yield cursor
            except BaseException as error:
                await _make_reusable_or_close(connection, error)
                raise

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        with self._metrics.timed(self._metrics.pool_wait):
            try:
                async with asyncio.timeout(seconds_left(self._pool_wait_s)):
                    await self._slots.acquire()
            except TimeoutError:
                raise Overloaded("All database connections are busy.", retry_after_s=1) from None
        try:
            connection = await self._connect()
            self._metrics.pool_in_use.inc()
            try:
                with self._metrics.timed(self._metrics.transaction_duration):
                    yield connection
            finally:
                self._metrics.pool_in_use.dec()
                self._pool.release(connection)
        finally:
            self._slots.release()

    async def _connect(self) -> Any:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            return await self._pool.acquire()


async def _make_reusable_or_close(connection: Any, error: BaseException) -> None:
    """ROLLBACK explicitly: after errno 1205 the transaction is still open, after 1213 the session is outside it.

    A connection whose query was cut off (cancelled, timed out, garbage) is in an unknown state and is closed.
    """
    cut_off = isinstance(error, OSError | TimeoutError | asyncio.CancelledError) or _errno(error) in _AMBIGUOUS
    if cut_off or connection.closed:
        connection.close()
        return
    try:
        async with asyncio.timeout(2):
            await connection.rollback()
    except BaseException as rollback_error:
        connection.close()
        if not isinstance(rollback_error, MySQLError | OSError | TimeoutError):
            raise


def _errno(error: BaseException) -> int | None:
    if isinstance(error, MySQLError):
        # Without a number it is aiomysql that lost the thread of the protocol, as good as a lost connection.
        return error.args[0] if error.args and isinstance(error.args[0], int) else 2013
    return 2013 if isinstance(error, ConnectionError) else None
