"""A SKU that a stranger holds keeps those back who want it, and nobody else."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pymysql
import pytest
from pydantic import SecretStr

from common.contracts.inventory import CreateStock, DecreaseStock, StockChange, StockLevel, StockLocked
from common.database import Database
from common.database_url import parse_database_url
from common.telemetry import Metrics
from inventory_service.line import Line
from inventory_service.settings import Settings
from inventory_service.stock import Stock
from tests.conftest import open_database
from vv.databases import Databases

# Noticeable is what takes longer; a neighbour is kept waiting for 0.1 s at the most.
SOON_S = 0.6


class Shop:
    """Stock with the lines in front of it, and a stranger with a transaction of his own."""

    def __init__(self, database: Database, stranger: Any) -> None:
        settings = Settings(database_url=SecretStr("mysql://u:p@h/d"), port=1)
        metrics = Metrics("test")
        self.stock = Stock(database)
        self.decreases: Line[DecreaseStock] = Line("decreases", self.stock.decrease, settings, metrics)
        self.rollbacks: Line[str] = Line("rollbacks", self.stock.rollback, settings, metrics)
        self.stranger = stranger

    async def new_skus(self, n: int, quantity: int = 100) -> list[str]:
        """In SKU order."""
        names = sorted(f"LOCKED-{uuid4().hex}" for _ in range(n))
        levels = await self.stock.create([CreateStock(product_id="p", sku=sku, quantity=quantity) for sku in names])
        assert all(isinstance(level, StockLevel) for level in levels)
        return names

    @contextlib.contextmanager
    def held(self, sku: str) -> Iterator[None]:
        self.stranger.execute("BEGIN")
        self.stranger.execute("SELECT * FROM inventory WHERE sku = %s FOR UPDATE", (sku,))
        try:
            yield
        finally:
            self.stranger.execute("ROLLBACK")

    async def left(self, *skus: str) -> list[int]:
        return [(await self.stock.get(sku)).quantity for sku in skus]


@pytest.fixture
async def shop(migrated: Databases) -> AsyncIterator[Shop]:
    url = migrated.service_urls["inventory"]
    address = parse_database_url(url)
    with contextlib.closing(pymysql.connect(database=address.pop("db"), **address)) as connection:
        async with open_database(url) as database:
            shop = Shop(database, connection.cursor())
            yield shop
            await shop.decreases.drain()
            await shop.rollbacks.drain()


def of(*skus: str) -> DecreaseStock:
    return DecreaseStock.model_validate(
        {"items": [{"sku": sku, "quantity": 1} for sku in skus], "request_id": f"{uuid4()}"}
    )


def start(shop: Shop, *items: DecreaseStock) -> "list[asyncio.Task[StockChange]]":
    return [asyncio.create_task(shop.decreases.submit(item)) for item in items]


async def test_neighbours_of_a_locked_sku_are_served_at_once(shop: Shop) -> None:
    """In the same batch and in later ones, carts that want it, too, aside; who wants it gets it when it is free."""
    skus = await shop.new_skus(16)
    with shop.held(skus[8]):
        kept_back = start(shop, of(skus[8]), of(skus[0], skus[8]), of(skus[8], skus[15]))
        started = time.perf_counter()
        for _ in range(5):
            changes = await asyncio.gather(*start(shop, *(of(sku) for sku in skus if sku != skus[8])))
            assert all(isinstance(change, StockChange) for change in changes)
        assert time.perf_counter() - started < SOON_S
        # Longer than a statement waits for a lock.
        await asyncio.sleep(1.5)
        assert not any(task.done() for task in kept_back)
    await asyncio.wait_for(asyncio.gather(*kept_back), 2)
    assert await shop.left(skus[0], skus[1], skus[8], skus[15]) == [94, 95, 97, 94]


async def test_a_request_with_many_items_is_answered_soon(shop: Shop) -> None:
    """What is free is taken; the rest is left open, and asked for again it takes effect once."""
    skus = await shop.new_skus(3)
    items = [of(skus[0]), of(skus[1]), of(skus[2])]
    with shop.held(skus[1]):
        for _ in range(3):
            started = time.perf_counter()
            first, locked, last = await shop.decreases.submit_all(items)
            assert time.perf_counter() - started < SOON_S
            assert isinstance(first, StockChange)
            assert isinstance(last, StockChange)
            assert isinstance(locked, StockLocked)
            assert locked.extra["sku"] == skus[1]
            assert not locked.is_refusal
    outcomes = await shop.decreases.submit_all(items)
    assert all(isinstance(outcome, StockChange) for outcome in outcomes)
    assert await shop.left(*skus) == [99, 99, 99]


async def test_stock_that_was_locked_is_given_out_in_the_order_of_arrival(shop: Shop) -> None:
    """Also to those who come after it was let go, but while others still wait for it."""
    [sku] = await shop.new_skus(1)
    with shop.held(sku):
        early = start(shop, *(of(sku) for _ in range(8)))
        await asyncio.sleep(0.2)
        late = start(shop, *(of(sku) for _ in range(8)))
    changes = await asyncio.wait_for(asyncio.gather(*early, *late), 3)
    assert [change.items[0].quantity for change in changes] == list(range(99, 83, -1))


async def test_carts_that_cross_each_other_get_through(shop: Shop) -> None:
    """Nobody waits for a lock while he holds another one, so nobody can wait for each other; nothing is lost."""
    skus = await shop.new_skus(4)
    with shop.held(skus[0]), contextlib.suppress(TimeoutError):
        carts = start(shop, *(of(*pair) for a in skus for b in skus if a != b for pair in [(a, b)] * 4))
        await asyncio.wait_for(asyncio.shield(asyncio.gather(*carts)), 0.3)
    await asyncio.wait_for(asyncio.gather(*carts), 4)
    assert await shop.left(*skus) == [100 - 6 * 4] * 4


async def test_a_rollback_of_a_locked_sku_keeps_no_other_back(shop: Shop) -> None:
    """Like decreases: the stock of the others is given back at once."""
    skus = await shop.new_skus(3)
    taken = [of(sku) for sku in skus]
    await shop.decreases.submit_all(taken)
    ids = [str(item.request_id) for item in taken]
    with shop.held(skus[1]):
        started = time.perf_counter()
        outcomes = await shop.rollbacks.submit_all([*ids, "never-heard-of"])
        assert time.perf_counter() - started < SOON_S
        assert [type(outcome) for outcome in outcomes] == [StockChange, StockLocked, StockChange, StockChange]
    await asyncio.wait_for(shop.rollbacks.submit(ids[1]), 2)
    assert await shop.left(*skus) == [100, 100, 100]


async def test_whoever_waits_for_a_lock_hears_before_his_deadline(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger who never lets go keeps nobody for ever, and leaves no line behind."""
    monkeypatch.setattr("inventory_service.line._WAIT_MAX_S", 0.5)
    [sku] = await shop.new_skus(1)
    with shop.held(sku):
        started = time.perf_counter()
        with pytest.raises(StockLocked):
            await shop.decreases.submit(of(sku))
        assert 0.4 < time.perf_counter() - started < 1
    await shop.decreases.drain()
    assert await shop.left(sku) == [99]
    assert not shop.decreases._held
