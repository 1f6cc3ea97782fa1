"""A SKU that a stranger holds keeps those back who want it, and nobody else."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pymysql
import pytest
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from common.contracts.base import Request
from common.contracts.inventory import (
    CreateStock,
    DecreaseStock,
    IncreaseStock,
    RollbackStock,
    StockChange,
    StockLevel,
    StockLocked,
)
from common.database import Database
from common.database_url import parse_database_url
from common.telemetry import Metrics
from inventory_service.app import make_app
from inventory_service.metrics import StockMetrics
from inventory_service.settings import Settings
from inventory_service.sku_queue import SkuQueue, waiting_slots
from inventory_service.stock import Stock
from vv.databases import Databases

# Nearly all of them time who is kept waiting, and for how long.
pytestmark = pytest.mark.alone

# Noticeable is what takes longer; a neighbour is kept waiting for 0.1 s at the most.
SOON_S = 0.6


class Shop:
    """Stock with the lines in front of it, and strangers with transactions of their own."""

    def __init__(self, settings: Settings) -> None:
        metrics = Metrics("test")
        self.database = Database.from_settings(settings, metrics, tls=None)
        self.stock = Stock(self.database)
        shared = waiting_slots(settings), settings, metrics, StockMetrics(metrics.registry)
        self.decreases: SkuQueue[DecreaseStock] = SkuQueue("decreases", self.stock.decrease, *shared)
        self.rollbacks: SkuQueue[str] = SkuQueue("rollbacks", self.stock.rollback, *shared)
        self.address = parse_database_url(settings.database_url.get_secret_value())

    async def new_skus(self, n: int, quantity: int = 100) -> list[str]:
        """In SKU order."""
        names = sorted(f"LOCKED-{uuid4().hex}" for _ in range(n))
        levels = await self.stock.create([CreateStock(product_id="p", sku=sku, quantity=quantity) for sku in names])
        assert all(isinstance(level, StockLevel) for level in levels)
        return names

    @contextlib.contextmanager
    def held(self, *skus: str) -> Iterator[None]:
        with contextlib.closing(pymysql.connect(**self.address)) as stranger, stranger.cursor() as cursor:
            # One by one: for many the server may scan the table, and lock all of it.
            cursor.executemany("SELECT * FROM inventory WHERE sku = %s FOR UPDATE", [(sku,) for sku in skus])
            yield
            stranger.rollback()

    async def left(self, *skus: str) -> list[int]:
        return [(await self.stock.get(sku)).quantity for sku in skus]


@contextlib.asynccontextmanager
async def shop_at(url: str, **settings: Any) -> AsyncIterator[Shop]:
    shop = Shop(Settings(database_url=SecretStr(url), port=1, **settings))
    async with shop.database:
        yield shop
        for line in (shop.decreases, shop.rollbacks):
            await line.drain()


@pytest.fixture
async def shop(migrated: Databases) -> AsyncIterator[Shop]:
    async with shop_at(migrated.service_urls["inventory"]) as shop:
        yield shop


def of(*skus: str) -> DecreaseStock:
    return DecreaseStock.model_validate(
        {"items": [{"sku": sku, "quantity": 1} for sku in skus], "request_id": f"{uuid4()}"}
    )


def more_of(sku: str) -> IncreaseStock:
    return IncreaseStock(sku=sku, quantity=1, request_id=f"{uuid4()}")


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
    # What was left waiting is settled first: it is in front of whoever comes now, who would not wait for it for long.
    await shop.decreases.drain()
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
    monkeypatch.setattr("inventory_service.sku_queue._WAIT_MAX_S", 0.5)
    [sku] = await shop.new_skus(1)
    with shop.held(sku):
        started = time.perf_counter()
        with pytest.raises(StockLocked):
            await shop.decreases.submit(of(sku))
        assert 0.4 < time.perf_counter() - started < 1
    await shop.decreases.drain()
    assert await shop.left(sku) == [99]
    assert not shop.decreases._held


async def test_whoever_waits_for_strangers_keeps_no_other_line_back(shop: Shop) -> None:
    """All slots are taken by lines that wait for nothing; a SKU that was held for a moment is given out at once."""
    *stuck, hot = await shop.new_skus(9)
    with shop.held(*stuck):
        kept_back = start(shop, *(of(sku) for sku in stuck))
        await asyncio.sleep(0.2)
        with shop.held(hot):
            blipped = start(shop, of(hot))
            await asyncio.sleep(0.2)
            assert not blipped[0].done()
        await asyncio.wait_for(blipped[0], SOON_S)
        [change] = await shop.decreases.submit_all([of(hot)])
        assert isinstance(change, StockChange)
        assert not any(task.done() for task in kept_back)
    await asyncio.wait_for(asyncio.gather(*kept_back), 2)


async def test_nobody_waits_for_a_lock_twice(shop: Shop) -> None:
    """After one lock wait (1 s) the connection is free again, and the answer is that the SKU is held."""
    [sku] = await shop.new_skus(1)
    taken = of(sku)
    await shop.stock.decrease([taken])
    with shop.held(sku):
        started = time.perf_counter()
        outcomes = await asyncio.gather(
            shop.stock.decrease([of(sku)], wait_for=sku),
            shop.stock.increase([more_of(sku)], wait_for=sku),
            shop.stock.rollback([str(taken.request_id)], wait_for=sku),
        )
        assert 0.9 < time.perf_counter() - started < 2
    assert all(isinstance(outcome, StockLocked) for [outcome] in outcomes)


async def test_of_all_who_change_locked_stock_few_wait_in_the_database(shop: Shop, migrated: Databases) -> None:
    """Whether they add, take or give back: one of two connections is left to others, and later all get through."""
    *locked, free = await shop.new_skus(4)
    taken = [of(sku) for sku in locked]
    await shop.decreases.submit_all(taken)
    url = SecretStr(migrated.service_urls["inventory"])
    app = make_app(Settings(database_url=url, port=1, pool_size_max=2))
    async with TestClient(TestServer(app)) as client:

        async def post(use_case: str, body: Request) -> dict[str, Any]:
            reply = await client.post(f"/inventory/{use_case}", json=body.model_dump(mode="json", exclude_none=True))
            assert reply.status == 200, await reply.text()
            return await reply.json()  # type: ignore[no-any-return]

        with shop.held(*locked):
            calls: list[tuple[str, Request]] = [
                *(("increase", more_of(sku)) for sku in locked for _ in range(4)),
                *(("decrease", of(sku)) for sku in locked),
                *(("rollback", RollbackStock(request_id=f"{item.request_id}")) for item in taken),
            ]
            waiting = [asyncio.create_task(post(*call)) for call in calls]
            await asyncio.sleep(0.2)
            added = await asyncio.wait_for(post("increase", more_of(free)), SOON_S)
            assert added["items"][0]["quantity"] == 101
            # Longer than a statement waits for a lock.
            await asyncio.sleep(1.5)
            assert not any(task.done() for task in waiting)
        await asyncio.wait_for(asyncio.gather(*waiting), 3)
    assert await shop.left(*locked) == [103] * 3


async def test_without_batches_a_request_with_many_items_ends_in_time(
    migrated: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each item may wait, for more than one lock wait, and not for ever."""
    monkeypatch.setattr("inventory_service.sku_queue._WAIT_MAX_S", 1.5)
    async with shop_at(migrated.service_urls["inventory"], max_batch=1) as shop:
        skus = await shop.new_skus(2)
        with shop.held(skus[0]):
            started = time.perf_counter()
            outcomes = await shop.decreases.submit_all([of(sku) for sku in skus])
            assert 1.2 < time.perf_counter() - started < 2
        assert [type(outcome) for outcome in outcomes] == [StockLocked, StockChange]
