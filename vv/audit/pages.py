"""How the audit reads: short consistent reads, page by page, that lock nothing and hold nobody up."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from common.database import Database
from common.transaction import Row, Transaction

# Rows of a page; a page is one short read. MariaDB turns lists of 1,000 and more into subqueries
# (in_predicate_conversion_threshold), for some of which it reads a whole index: a minute for 100,000 orders.
PAGE = 500
# Subjects that are looked at by name at once.
CHOSEN_MAX = 100

T = TypeVar("T")


class Facts(Protocol):
    """What is known of one thing; ``subject`` is its key, by which it can be looked at again."""

    @property
    def subject(self) -> str: ...


F = TypeVar("F", bound=Facts)


class Page(NamedTuple):
    """Facts, and how many rows were looked at for them."""

    facts: Sequence[Any]
    rows: int


async def snapshot(database: Database, query: Callable[[Transaction], Awaitable[T]]) -> T:
    """Run plain reads that all see the database as of the same moment. Raises DatabaseUnavailable."""

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
    """The facts whose ``key`` comes behind ``after``, in its order, or those of ``only``.

    ``read`` gets what a statement ends with, and the arguments of that.
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
