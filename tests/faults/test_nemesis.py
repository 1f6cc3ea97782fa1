"""Every fault of the table truly hits, and once it is healed the shop works as before and its books are right."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from common.clients import AsyncInventoryClient, AsyncOrderClient, OrderStatus
from tests.buyers import Buyers, Wish, buyers_at
from tests.conftest import open_database
from tests.faults.harness.cluster import CHECKOUT, Cluster
from tests.faults.harness.database_faults import root_cursor
from tests.faults.harness.faults import FAULTS
from vv.audit import audit, open_books

_BUYERS = 8
_SKUS = ("HOT", "LACES", "SOCKS")


@pytest.fixture(scope="module")
def cluster(own_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all faults, with plenty of stock."""
    with Cluster(tmp_path_factory.mktemp("nemesis"), seed=1).running() as running:
        asyncio.run(_stock_up(running))
        yield running


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_hits_and_heals(cluster: Cluster, name: str) -> None:
    """Buyers shop while it happens. It hits something; once it is healed an order goes through."""
    if why_not := FAULTS[name].why_not(cluster):
        pytest.skip(why_not)
    async with _shopping(cluster):
        await asyncio.sleep(0.2)
        hits = await _inflict(cluster, name)
    await cluster.heal()
    assert hits > 0
    await _an_order_goes_through(cluster)


async def test_a_decrease_is_delivered_after_its_rollback(cluster: Cluster) -> None:
    """Held back, undone, delivered: the rollback has left the row with which the late decrease collides."""
    earlier = set(cluster.cancelled)
    async with _shopping(cluster):
        assert await FAULTS["held-decrease"].inflict(cluster, _Hasty("late"))
    (order_id,) = cluster.cancelled - earlier
    async with AsyncOrderClient(cluster.order_url, timeout_s=20) as orders:
        assert (await orders.wait(order_id, timeout_s=20)).status is OrderStatus.CANCELLED
    async with root_cursor(cluster) as cursor:
        await cursor.execute(
            "SELECT line, sku, delta FROM inventory_db.stock_ledger WHERE request_id = %s", (f"{order_id}:deduct",)
        )
        assert list(await cursor.fetchall()) == [(1, None, 0)]


async def test_after_all_faults_the_books_are_right(cluster: Cluster) -> None:
    """Every order has ended, and the audit finds nothing. Run it with one fault (-k) to learn which one it was."""
    await _has_ended(cluster, "order", "orders")
    await _has_ended(cluster, "payment", "payments")
    async with open_books(cluster.database_urls, gateway_url=cluster.gateway_url) as books:
        report = await audit(books, quiesced=True)
    assert report.violations == []
    assert report.orders


@pytest.mark.usefixtures("own_server")
def test_a_copy_of_the_packages_is_run(tmp_path: Path) -> None:
    """With ``source`` the services run from there, whatever is installed. Nothing of the cluster outlives it."""
    source = tmp_path / "source"
    for package in ("common", "order_service", "inventory_service", "payment_service"):
        shutil.copytree(CHECKOUT / package, source / package)
    with (source / "order_service" / "__init__.py").open("a") as package_file:
        package_file.write("print('This is the copy.', flush=True)\n")
    with Cluster(tmp_path / "cluster", seed=1, source=source).running() as cluster:
        assert "This is the copy." in cluster.processes["order"].log.read_text()
    assert not any(process.is_alive for process in cluster.processes.values())
    assert not cluster.mariadb.folder.is_mount()


async def _inflict(cluster: Cluster, name: str) -> int:
    """Its hits. Where the machine has other things to do nobody may come by in so short a time: then once more."""
    hits = 0
    for attempt in range(4):
        hits = await FAULTS[name].inflict(cluster, _Hasty(f"{name} {attempt}"))
        if hits:
            break
    return hits


class _Hasty(random.Random):
    """Chance that leans to short times and small shares: there are many rows."""

    def uniform(self, a: float, b: float) -> float:
        return super().uniform(a, a + (b - a) / 4)


async def _stock_up(cluster: Cluster) -> None:
    async with AsyncInventoryClient(cluster.direct_url("inventory")) as inventory:
        for sku in _SKUS:
            await inventory.create(product_id="nemesis", sku=sku, quantity=1_000_000)


@asynccontextmanager
async def _shopping(cluster: Cluster) -> AsyncIterator[None]:
    """A few buyers, one order after the other, for the duration of a block; some pay with a bad card."""
    async with buyers_at(cluster.order_url) as buyers:
        everybody = [asyncio.create_task(_shop(buyers, random.Random(n))) for n in range(_BUYERS)]
        try:
            yield
        finally:
            for buyer in everybody:
                buyer.cancel()
            await asyncio.gather(*everybody, return_exceptions=True)


async def _shop(buyers: Buyers, rng: random.Random) -> None:
    while True:
        items = [{"sku": sku, "quantity": 1} for sku in rng.sample(_SKUS, rng.choice((1, 1, 2)))]
        card = rng.choice(("tok_ok", "tok_ok", "tok_ok", "tok_declined"))
        body = {"user_id": "somebody", "items": items, "total_amount": 700, "payment_method": card}
        try:
            got = await buyers.send(Wish(body))
        except (aiohttp.ClientError, ValueError):
            # The reply broke off.
            continue
        # There are other things to do on this machine.
        await asyncio.sleep(0.05 if got.status in (0, 503) else 0.02)


async def _an_order_goes_through(cluster: Cluster) -> None:
    """A buyer with the client library, which is patient, is served."""
    async with AsyncOrderClient(cluster.order_url, timeout_s=20) as orders:
        order = await orders.create(user_id="afterwards", sku="HOT", total_amount=700)
        if order.status is not OrderStatus.COMPLETED:
            order = await orders.wait(order.order_id, timeout_s=20)
        assert order.status is OrderStatus.COMPLETED


async def _has_ended(cluster: Cluster, service: str, table: str) -> None:
    unfinished = f"SELECT 1 FROM {table} WHERE lease_until IS NOT NULL LIMIT 1"
    async with open_database(cluster.database_urls[service]) as database, asyncio.timeout(30):
        while await database.read(lambda tx: tx.fetch_one(unfinished)):
            await asyncio.sleep(0.05)
