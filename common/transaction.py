"""The statements of one transaction, as few round trips as they allow."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from pymysql.converters import escape_string
from pymysql.err import IntegrityError

from common.tracing import UNTRACED, Traced, statement_name

Row = tuple[Any, ...]

_DUPLICATE_ENTRY = 1062
_NOT_NULL = 1048


class DuplicateKey(Exception):
    """A unique key holds this value already. The statement did nothing; the transaction goes on."""


class StaleVersion(Exception):
    """A row has another version than its writer read; the statement would have set it to NULL, which it may not be."""


@dataclass
class Answer:
    """What a statement answered, once it was sent: its rows, and how many rows it changed or found."""

    rows: list[Row] = field(default_factory=list)
    count: int = 0

    @property
    def value(self) -> Any:
        """The value of an answer that has one row of one column."""
        [[value]] = self.rows
        return value


class Transaction:
    """Runs statements; inside :meth:`Database.transaction` all of them or none take effect.

    A round trip costs more than most statements, so statements whose answer is not needed yet can be deferred: they
    are sent in one packet with the next one that is waited for. The first that fails keeps the rest from being run.
    """

    def __init__(self, cursor: Any, *, is_rerun: bool = False, was_lost: bool = False, span: Traced = UNTRACED) -> None:
        self._cursor = cursor
        self._deferred: list[tuple[str, Answer]] = []
        self._span = span
        self._names: list[str] = []
        self.is_committed = False
        self.is_rerun = is_rerun
        """Whether it was tried before, and the server or the network said no."""
        self.was_lost = was_lost
        """Whether an earlier run may have been committed, without anybody hearing of it."""

    def defer(self, sql: str, args: Sequence[Any] | None = None) -> Answer:
        """Run a statement together with the next one that is waited for; its answer is there after that."""
        # Without arguments nothing is formatted: a percent sign stays what it is.
        return self._defer(sql if args is None else sql % tuple(map(self._literal, args)), sql)

    def _defer(self, statement: str, sql: str) -> Answer:
        answer = Answer()
        if self._span.is_recorded:
            self._names.append(statement_name(sql))
        self._deferred.append((statement, answer))
        return answer

    def _literal(self, value: Any) -> str:
        """A value as SQL, as the driver writes it; what nearly all values are does not take its long way.

        Backslashes escape, since the session's ``sql_mode`` is ours (``common/database.py``).
        """
        if isinstance(value, str):
            return f"'{escape_string(value)}'"
        if value is None:
            return "NULL"
        if type(value) is int:
            return str(value)
        if isinstance(value, list | tuple):
            return f"({', '.join(map(self._literal, value))})"
        return str(self._cursor.connection.escape(value))

    def defer_values(self, sql: str, rows: Iterable[Sequence[Any]], row: str) -> Answer:
        """Write many rows with one statement: ``%s`` in ``sql`` becomes a ``row`` for each of ``rows``.

        ``row`` is the SQL of one row with a placeholder a value, such as ``(%s, NOW(6) + INTERVAL %s SECOND)``.
        Unlike aiomysql's ``executemany`` this never falls back to a statement a row.
        """
        values = list(rows)
        if not values:
            return Answer()
        rows_of_it = sql.replace("%s", ", ".join([row] * len(values)), 1)
        return self._defer(rows_of_it % tuple(map(self._literal, chain.from_iterable(values))), sql)

    async def flush(self) -> None:
        """Run what was deferred. Raises DuplicateKey and StaleVersion."""
        statements, self._deferred = self._deferred, []
        if not statements:
            return
        if self._names:
            self._span.set("db.query.summary", "; ".join(self._names))
        try:
            await self._cursor.execute(";".join(sql for sql, _ in statements))
            for position, (_, answer) in enumerate(statements):
                if position:
                    await self._cursor.nextset()
                answer.count = int(self._cursor.rowcount)
                answer.rows = list(await self._cursor.fetchall())
        except IntegrityError as error:
            if error.args[0] == _DUPLICATE_ENTRY:
                raise DuplicateKey(error.args[1]) from error
            if error.args[0] == _NOT_NULL:
                raise StaleVersion(error.args[1]) from error
            raise

    async def fetch_all(self, sql: str, args: Sequence[Any] | None = None) -> list[Row]:
        answer = self.defer(sql, args)
        await self.flush()
        return answer.rows

    async def fetch_one(self, sql: str, args: Sequence[Any] | None = None) -> Row | None:
        rows = await self.fetch_all(sql, args)
        return rows[0] if rows else None

    async def execute(self, sql: str, args: Sequence[Any] | None = None) -> int:
        """Run a statement and return the number of rows that it changed.

        Raises DuplicateKey.
        """
        answer = self.defer(sql, args)
        await self.flush()
        return answer.count

    def start_again(self) -> None:
        """Undo what was done so far, and begin anew, together with the next statement that is waited for."""
        self._deferred = []
        self.defer("ROLLBACK")
        self.defer("BEGIN")

    async def commit(self) -> None:
        """Commit in the same round trip as what was deferred; nothing may follow.

        Raises DuplicateKey and StaleVersion: then nothing was committed, and the transaction goes on.
        """
        self.defer("COMMIT")
        await self.flush()
        self.is_committed = True


def utc(naive: datetime) -> datetime:
    """A DATETIME of ours, which is UTC, as an aware datetime."""
    return naive.replace(tzinfo=UTC)


def microseconds(seconds: float) -> int:
    """As an SQL interval takes them."""
    return int(seconds * 1_000_000)
