"""Restocks that are repeated: the same key, the same answer, also where the next one would be too many."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from common.contracts.base import STOCK_MAX
from common.contracts.inventory import CreateStock, IncreaseStock, StockChange, StockLimitExceeded
from common.errors import IdempotencyMismatch
from inventory_service.stock import Stock
from tests.conftest import open_database
from vv.databases import Databases

ROOM = 500


@asynccontextmanager
async def nearly_full(migrated: Databases) -> AsyncIterator[tuple[Stock, str]]:
    """A SKU that can hold ``ROOM`` more."""
    sku = f"EBOOK-{uuid4().hex}"
    async with open_database(migrated.service_urls["inventory"]) as database:
        stock = Stock(database)
        await stock.create([CreateStock(product_id="e", sku=sku, quantity=STOCK_MAX - ROOM)])
        yield stock, sku


async def test_a_repeated_restock_is_answered_as_the_first(migrated: Databases) -> None:
    """It took effect, its reply was lost; now there is no room for it a second time, and need not be."""
    async with nearly_full(migrated) as (stock, sku):
        delivery = IncreaseStock(sku=sku, quantity=ROOM, request_id=f"{sku}-1")
        [first] = await stock.increase([delivery])
        [again] = await stock.increase([delivery])
        assert isinstance(first, StockChange)
        assert again == first
        assert (await stock.get(sku)).quantity == STOCK_MAX


async def test_among_others_each_is_answered_for_itself(migrated: Databases) -> None:
    """A repeated one, one that is too much, one whose key was used for another, and one that fits."""
    async with nearly_full(migrated) as (stock, sku):
        done = IncreaseStock(sku=sku, quantity=ROOM - 1, request_id=f"{sku}-1")
        [first] = await stock.increase([done])
        repeated, too_much, other, fitting = await stock.increase(
            [
                done,
                IncreaseStock(sku=sku, quantity=ROOM, request_id=f"{sku}-2"),
                IncreaseStock(sku=sku, quantity=ROOM, request_id=f"{sku}-1"),
                IncreaseStock(sku=sku, quantity=1, request_id=f"{sku}-3"),
            ]
        )
        assert repeated == first
        assert isinstance(too_much, StockLimitExceeded)
        assert isinstance(other, IdempotencyMismatch)
        assert isinstance(fitting, StockChange)
        assert (await stock.get(sku)).quantity == STOCK_MAX


async def test_a_refused_restock_may_be_asked_for_again(migrated: Databases) -> None:
    """The refusal is not recorded: once there is room it is done."""
    async with nearly_full(migrated) as (stock, sku):
        delivery = IncreaseStock(sku=sku, quantity=ROOM + 1, request_id=f"{sku}-1")
        [refused] = await stock.increase([delivery])
        assert isinstance(refused, StockLimitExceeded)
        assert (await stock.get(sku)).quantity == STOCK_MAX - ROOM
