"""How the audit reads a database: page by page, each a short consistent read that locks nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from common.database import Database
from common.transaction import Row, Transaction

# Rows of a page. Not more, because MariaDB turns IN lists of 1,000 values and more into subqueries
# (in_predicate_conversion_threshold), for some of which it reads a whole index: a minute for 100,000 orders.
PAGE = 500
# Subjects that one statement looks up by name.
CHOSEN_MAX = 100

T = TypeVar("T")


class Facts(Protocol):
    """What is known about one thing; ``subject`` is the key by which it can be read again."""

    @property
    def subject(self) -> str: ...


F = TypeVar("F", bound=Facts)


class Page(NamedTuple):
    """Facts, and how many rows were read for them."""

    facts: Sequence[Any]
    rows: int


async def snapshot(database: Database, query: Callable[[Transaction], Awaitable[T]]) -> T:
    """Run reads that all see the database as of the same moment. Raises DatabaseUnavailable."""

    async def read(tx: Transaction) -> T:
        tx.defer("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        tx.defer("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        result = await query(tx)
        await tx.commit()
        return result

    return await database.read(read)


async def fetch(database: Database, sql: str, args: Sequence[Any]) -> list[Row]:
    """The rows of one statement. Raises DatabaseUnavailable."""

    async def read(tx: Transaction) -> list[Row]:
        return await tx.fetch_all(sql, args)

    return await database.read(read)


async def pages_of(
    key: str, after: str, only: Sequence[str] | None, read: Callable[[str, list[Any]], Awaitable[list[F]]]
) -> AsyncIterator[list[F]]:
    """Pages of facts, ordered by ``key``: those whose key is greater than ``after``, or only those of ``only``.

    ``read`` takes the end of a SELECT, from the condition on, and its arguments.
    """
    if only is not None:
        for chunk in chunks(sorted(only)):
            yield await read(f"{key} IN %s ORDER BY {key}", [chunk])
        return
    while page := await read(f"{key} > %s ORDER BY {key} LIMIT %s", [after, PAGE]):
        yield page
        after = page[-1].subject


def chunks(subjects: Sequence[str], size: int = CHOSEN_MAX) -> Iterator[Sequence[str]]:
    for first in range(0, len(subjects), size):
        yield subjects[first : first + size]
