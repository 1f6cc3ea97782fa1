"""The light audit of the ledger: it finds what drifts, and nothing else, and costs the same whatever was sold."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from prometheus_client import CollectorRegistry

from common import worker_metrics
from common.contracts.inventory import CreateStock, DecreaseStock, StockChange
from common.database import Database
from common.transaction import Transaction
from inventory_service import drift, queries
from inventory_service.drift import DriftWatch
from inventory_service.metrics import StockMetrics
from inventory_service.stock import Stock
from tests.conftest import open_database
from tests.database_server import DatabaseServer
from vv import migrate


@pytest.fixture(scope="module")
def drift_url(database_server: DatabaseServer) -> Iterator[str]:
    """A database of its own, whose books may be spoilt."""
    with database_server.further("drift_db") as [url]:
        migrate.apply("inventory", url)
        yield url


@pytest.fixture
async def database(drift_url: str) -> AsyncIterator[Database]:
    async with open_database(drift_url) as database:
        yield database
        await execute(database, "DELETE FROM inventory")
        await execute(database, "DELETE FROM stock_ledger")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def watch(database: Database, registry: CollectorRegistry) -> DriftWatch:
    """Two SKUs a round."""
    return DriftWatch(database, 2, StockMetrics(registry))


async def execute(database: Database, sql: str) -> None:
    await database.transaction(lambda tx: tx.execute(sql))


async def make(database: Database, *skus: str) -> Stock:
    stock = Stock(database)
    await stock.create([CreateStock(product_id="p", sku=sku, quantity=100) for sku in skus])
    return stock


async def test_what_drifts_is_found_and_forgotten_when_it_is_mended(
    database: Database, watch: DriftWatch, registry: CollectorRegistry
) -> None:
    """Round by round: two SKUs, two more, the last one, and from the first one on again."""
    await make(database, "A", "B", "C", "D", "E")
    await execute(database, "UPDATE inventory SET quantity = quantity + 1 WHERE sku IN ('B', 'E')")
    assert [await watch.run_once() for _ in range(3)] == [{"B"}, set(), {"E"}]
    assert registry.get_sample_value("vv_ledger_drift_skus") == 2
    assert registry.get_sample_value("vv_ledger_checked_skus_total") == 5
    await execute(database, "UPDATE inventory SET quantity = quantity - 1 WHERE sku = 'B'")
    assert await watch.run_once() == set()
    assert registry.get_sample_value("vv_ledger_drift_skus") == 1
    assert registry.get_sample_value("vv_ledger_rounds_total") == 4


async def test_the_last_round_may_be_full(database: Database, watch: DriftWatch) -> None:
    """Then the next one finds nobody, and after that it begins anew."""
    await make(database, "A", "B")
    await execute(database, "UPDATE inventory SET quantity = 0 WHERE sku = 'A'")
    assert [await watch.run_once() for _ in range(3)] == [{"A"}, set(), {"A"}]


@pytest.mark.parametrize("spoilt", ["delta", "quantity"])
async def test_of_a_long_ledger_the_newest_rows_are_looked_at(
    spoilt: str, database: Database, watch: DriftWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an older row says of the stock after it is where the sum begins; a row before that is not looked at."""
    monkeypatch.setattr(drift, "_ROWS_MAX", 3)
    stock = await make(database, "LONG")
    for n in range(6):
        await stock.decrease([DecreaseStock(sku="LONG", quantity=1, request_id=f"r{n}")])
    assert await watch.run_once() == set()
    await execute(database, "UPDATE stock_ledger SET delta = -9, quantity = 9 WHERE request_id IN ('r0', 'r1')")
    assert await watch.run_once() == set()
    # Of the row before the newest three its word on the stock counts, of these their change.
    request_id = {"quantity": "r2", "delta": "r5"}[spoilt]
    await execute(database, f"UPDATE stock_ledger SET {spoilt} = {spoilt} - 1 WHERE request_id = '{request_id}'")
    assert await watch.run_once() == {"LONG"}


async def test_no_more_rows_are_read_than_wanted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the server's own account: the SKUs of a round, and for each of them the newest rows of its ledger."""
    monkeypatch.setattr(drift, "_ROWS_MAX", 10)
    stock = await make(database, *(f"SKU-{n}" for n in range(20)))
    for n in range(8):
        for sku in range(20):
            lines = [DecreaseStock(sku=f"SKU-{sku}", quantity=1, request_id=f"{sku}-{n}-{k}") for k in range(8)]
            await stock.decrease(lines)

    async def rows_read(tx: Transaction) -> int:
        return sum(int(value) for _, value in await tx.fetch_all("SHOW SESSION STATUS LIKE 'Handler_read%'"))

    async def check(tx: Transaction) -> int:
        first, before = await rows_read(tx), await rows_read(tx)
        await drift._differences(tx, skus=[f"SKU-{n}" for n in range(4)])
        # MySQL counts what SHOW itself reads, too.
        return await rows_read(tx) - before - (before - first)

    # Of four SKUs, twice ten rows each, and a few to begin and to end with; the ledger has 1,300.
    assert 4 * 20 <= await database.read(check) <= 4 * 50


async def test_nothing_drifts_while_stock_is_sold(database: Database, watch: DriftWatch) -> None:
    """Stock and ledger are read as of one moment."""
    stock = await make(database, "HOT")

    async def sell() -> None:
        for n in range(60):
            [change] = await stock.decrease([DecreaseStock(sku="HOT", quantity=1, request_id=f"r{n}")])
            assert isinstance(change, StockChange)

    selling = asyncio.create_task(sell())
    rounds = 0
    while not selling.done():
        assert await watch.run_once() == set()
        rounds += 1
    await selling
    assert rounds > 10


async def test_reading_stock_and_ledger_one_after_the_other_would_not_do(database: Database) -> None:
    """What the one statement is for: between two of them something is sold."""
    stock = await make(database, "HOT")

    async def read(tx: Transaction) -> tuple[int, int]:
        [level] = await queries.get_stock(tx, ["HOT"])
        await stock.decrease([DecreaseStock(sku="HOT", quantity=1, request_id="between")])
        [(_, total)] = await tx.fetch_all("SELECT 1, SUM(delta) FROM stock_ledger WHERE sku = 'HOT'")
        return level.quantity, int(total)

    assert await database.read(read) == (100, 99)


@pytest.mark.parametrize(("number", "is_first"), [(None, True), (0, True), (1, False), (2, False)])
def test_one_worker_of_all_does_it(number: int | None, is_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, or the service that has no workers."""
    monkeypatch.setattr(worker_metrics, "_number", number)
    assert worker_metrics.is_first() is is_first
