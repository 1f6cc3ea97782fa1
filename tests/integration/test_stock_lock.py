"""It is the row lock that keeps stock from being oversold: with it the race is exact, without it the test sees it."""

import asyncio
from collections.abc import AsyncIterator, Collection

import pytest

from common.contracts.inventory import CreateStock, DecreaseStock, OutOfStock, StockChange
from common.database import Database
from common.transaction import Transaction
from inventory_service import queries
from inventory_service.stock import Stock
from tests.conftest import open_database
from tests.database_server import DatabaseServer
from vv import migrate

# Sixteen buyers run at a time, and the units are no multiple of that: somebody sells the last ones to all of them.
AT_ONCE = 16
UNITS, BUYERS = 50, 12 * AT_ONCE


@pytest.fixture
async def race_track(database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A database of its own without the CHECK constraints, which would hide a missing lock behind an error."""
    with database_server.further("race_db") as [url]:
        await asyncio.to_thread(migrate.apply, "inventory", url)
        async with open_database(url, pool_size_max=AT_ONCE) as database:
            for table, constraint in (
                ("inventory", "stock_is_never_negative"),
                ("stock_ledger", "ledger_quantity_is_never_negative"),
            ):
                await database.transaction(
                    lambda tx, ddl=f"ALTER TABLE {table} DROP CONSTRAINT {constraint}": tx.execute(ddl)  # type: ignore[misc]
                )
            yield database


async def race(database: Database) -> tuple[int, int]:
    """How many of the buyers got a unit, and what is left in stock."""
    stock = Stock(database)
    await stock.create([CreateStock(product_id="race", sku="RACE", quantity=UNITS)])
    outcomes = await asyncio.gather(
        *(
            stock.decrease([DecreaseStock(sku="RACE", quantity=1, request_id=f"r{n}")], wait_for="RACE")
            for n in range(BUYERS)
        )
    )
    sold = sum(isinstance(outcome, StockChange) for [outcome] in outcomes)
    refused = sum(isinstance(outcome, OutOfStock) for [outcome] in outcomes)
    assert sold + refused == BUYERS
    return sold, (await stock.get("RACE")).quantity


async def test_with_the_lock_the_race_is_exact(race_track: Database) -> None:
    """Fifty units are sold fifty times, without any help of a CHECK constraint."""
    assert await race(race_track) == (UNITS, 0)


async def test_without_the_lock_the_race_oversells(race_track: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken out of the statement, the lock is missed: more is sold than there was, and the test can see it."""
    all_have_read = asyncio.Barrier(AT_ONCE)

    async def read_stock_without_lock(tx: Transaction, skus: Collection[str]) -> dict[str, int]:
        rows = await tx.fetch_all("SELECT sku, quantity FROM inventory WHERE sku IN %s ORDER BY sku", (sorted(skus),))
        # On a busy machine they might come one after the other all the same.
        async with asyncio.timeout(30):
            await all_have_read.wait()
        return dict(rows)

    monkeypatch.setattr(queries, "lock_free_stock", read_stock_without_lock)
    monkeypatch.setattr(queries, "lock_stock", lambda tx, sku: None)

    sold, left = await race(race_track)

    assert sold > UNITS
    assert left == UNITS - sold
