"""Batches whose carts name very many SKUs: they lock those, and no others."""

import asyncio

from common.contracts.inventory import CreateStock
from common.transaction import Transaction
from inventory_service import queries
from inventory_service.stock import Stock
from tests.conftest import open_database

# MariaDB would make a subquery of a list of 1,000, and read the table from end to end where it has not many more rows.
WANTED, OTHERS = 1_280, 720


async def test_of_a_long_list_only_its_skus_are_locked(urls: dict[str, str]) -> None:
    """Whoever wants any other one finds it free."""
    skus = [f"MANY-{n:05d}" for n in range(WANTED + OTHERS)]
    locked, looked = asyncio.Event(), asyncio.Event()

    async with open_database(urls["inventory"]) as database:
        await Stock(database).create([CreateStock(product_id="many", sku=sku, quantity=1) for sku in skus])

        async def hold(tx: Transaction) -> int:
            held = await queries.lock_free_stock(tx, skus[:WANTED])
            queries.change_stock(tx, dict.fromkeys(held, 0))
            await tx.flush()
            locked.set()
            await looked.wait()
            return len(held)

        async def look(tx: Transaction) -> int:
            return len(await queries.lock_free_stock(tx, skus[WANTED:]))

        holding = asyncio.create_task(database.transaction(hold))
        try:
            await asyncio.wait_for(locked.wait(), 10)
            assert await database.transaction(look) == OTHERS
        finally:
            looked.set()
        assert await holding == WANTED
