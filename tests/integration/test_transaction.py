"""What statements that are sent together do to each other, on a real server."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import pytest
from pymysql.err import MySQLError

from common.contracts.orders import OrderStatus
from common.database import Database
from common.transaction import DuplicateKey, StaleVersion, Transaction
from tests.conftest import open_database
from tests.database_server import DatabaseServer

ROW = "(%s, %s)"
INSERT = "INSERT INTO deferred (id, version) VALUES %s"


@pytest.fixture
async def database(database_server: DatabaseServer) -> AsyncIterator[Database]:
    """A database with the table ``deferred (id, version)``, empty."""
    async with open_database(database_server.migration_url("order")) as database:
        ddl = "CREATE TABLE deferred (id INT PRIMARY KEY, version INT NOT NULL) ENGINE = InnoDB"
        await database.transaction(lambda tx: tx.execute(ddl))
        yield database
        await database.transaction(lambda tx: tx.execute("DROP TABLE deferred"))


async def rows(database: Database) -> list[tuple[int, int]]:
    return await database.read(lambda tx: tx.fetch_all("SELECT id, version FROM deferred ORDER BY id"))


async def test_each_of_the_statements_gets_its_own_answer(database: Database) -> None:
    """Counts and rows are told apart, in whatever order statements of both kinds are sent."""

    async def work(tx: Transaction) -> None:
        inserted = tx.defer_values(INSERT, [(1, 1), (2, 1)], ROW)
        found = tx.defer("SELECT id FROM deferred ORDER BY id")
        changed = tx.defer("UPDATE deferred SET version = 2 WHERE id = %s", (2,))
        counted = tx.defer("SELECT COUNT(*) FROM deferred WHERE version = 2")
        assert (inserted.count, found.rows) == (0, [])
        await tx.commit()
        assert (inserted.count, found.rows, changed.count, counted.value) == (2, [(1,), (2,)], 1, 1)

    await database.transaction(work)
    assert await rows(database) == [(1, 1), (2, 2)]


async def test_values_arrive_as_they_are(database: Database) -> None:
    """Whatever is in a text, it stays one value: nothing of it becomes SQL, in a list or alone."""
    texts = [
        *("", "it's", '"', "\\", "\\'", "'; DROP TABLE deferred; --", "100 %s %(x)s %%", "a\0b", "\n\r\x1a\t", "`"),
        *("Grüße 🛒", "ÿ", "\u2028", OrderStatus.PAID),
    ]
    values = [*texts, None, 0, -(2**63), 2**64 - 1, True, False, 0.5, datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)]
    columns = ", ".join(["%s"] * len(values))
    assert await database.read(lambda tx: tx.fetch_all(f"SELECT {columns}", values)) == [
        (*texts, None, 0, -(2**63), 2**64 - 1, 1, 0, Decimal("0.5"), "2026-01-02 03:04:05.000678")
    ]
    found = [await database.read(partial(_is_in, text=text, texts=texts)) for text in texts]
    assert all(found)


async def _is_in(tx: Transaction, *, text: str, texts: list[str]) -> bool:
    return await tx.fetch_one("SELECT 1 WHERE %s IN %s", (text, texts)) == (1,)


async def test_the_first_that_fails_keeps_the_rest_from_being_run(database: Database) -> None:
    """A COMMIT that was sent along with a taken key commits nothing, and the transaction can go on."""

    async def work(tx: Transaction) -> None:
        tx.defer_values(INSERT, [(1, 1)], ROW)
        tx.defer_values(INSERT, [(1, 1)], ROW)
        tx.defer_values(INSERT, [(2, 1)], ROW)
        with pytest.raises(DuplicateKey):
            await tx.commit()
        assert await rows(database) == []
        assert await tx.fetch_all("SELECT id FROM deferred") == [(1,)]
        tx.defer_values(INSERT, [(3, 1)], ROW)

    await database.transaction(work)
    assert await rows(database) == [(1, 1), (3, 1)]


async def test_one_stale_version_among_many_changes_no_row(database: Database) -> None:
    """The statement that takes the version for granted fails as a whole, and nothing of the packet is committed."""
    await database.transaction(
        lambda tx: tx.execute("INSERT INTO deferred (id, version) VALUES (1, 1), (2, 5), (3, 1)")
    )

    async def move(tx: Transaction) -> None:
        tx.defer("UPDATE deferred SET version = IF(version = %s, version + 1, NULL) WHERE id IN %s", (1, [1, 2, 3]))
        tx.defer_values(INSERT, [(4, 1)], ROW)
        await tx.commit()

    with pytest.raises(StaleVersion):
        await database.transaction(move)
    assert await rows(database) == [(1, 1), (2, 5), (3, 1)]


async def test_what_was_deferred_and_not_sent_is_not_part_of_the_next_transaction(database: Database) -> None:
    """A transaction that fails leaves neither statements nor an open transaction to the connection's next user."""

    async def fail(tx: Transaction) -> None:
        tx.defer_values(INSERT, [(1, 1)], ROW)
        await tx.flush()
        tx.defer_values(INSERT, [(2, 1)], ROW)
        await tx.execute("SELECT nonsense FROM deferred")

    with pytest.raises(MySQLError):
        await database.transaction(fail)
    await database.transaction(lambda tx: tx.execute("INSERT INTO deferred (id, version) VALUES (3, 1)"))
    assert await rows(database) == [(3, 1)]
