"""Every fault of the table truly hits, and once it is healed the shop works as before and its books are right."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from common.clients import AsyncInventoryClient, AsyncOrderClient, OrderStatus
from tests.buyers import Buyers, Wish, buyers_at
from tests.conftest import open_database
from tests.faults.harness.cluster import Cluster
from tests.faults.harness.faults import FAULTS
from vv.audit import audit
from vv.audit_facts import Books

_BUYERS = 12
_SKUS = ("HOT", "LACES", "SOCKS")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all faults, with plenty of stock."""
    with Cluster(tmp_path_factory.mktemp("nemesis"), seed=1).running() as running:
        asyncio.run(_stock_up(running))
        yield running


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_hits_and_heals(cluster: Cluster, name: str) -> None:
    """Buyers shop while it happens. It hits something; afterwards every order ends, the next one goes through, and
    the audit is clean."""
    fault = FAULTS[name]
    if why_not := fault.why_not(cluster):
        pytest.skip(why_not)
    async with _shopping(cluster):
        await asyncio.sleep(0.2)
        hits = await fault.inflict(cluster, _Hasty(name))
    await cluster.heal()
    assert hits > 0
    await _an_order_goes_through(cluster)
    await _books_are_right(cluster)


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
        if got.status in (0, 503):
            await asyncio.sleep(0.05)


async def _an_order_goes_through(cluster: Cluster) -> None:
    """A buyer with the client library, which is patient, is served."""
    async with AsyncOrderClient(cluster.order_url, timeout_s=20) as orders:
        order = await orders.create(user_id="afterwards", sku="HOT", total_amount=700)
        if order.status is not OrderStatus.COMPLETED:
            order = await orders.wait(order.order_id, timeout_s=20)
        assert order.status is OrderStatus.COMPLETED


async def _books_are_right(cluster: Cluster) -> None:
    urls = cluster.database_urls
    async with (
        open_database(urls["order"]) as order,
        open_database(urls["inventory"]) as inventory,
        open_database(urls["payment"]) as payment,
    ):
        async with asyncio.timeout(20):
            for database, table in ((order, "orders"), (payment, "payments")):
                while await database.read(
                    lambda tx, table=table: tx.fetch_one(f"SELECT 1 FROM {table} WHERE lease_until IS NOT NULL LIMIT 1")
                ):
                    await asyncio.sleep(0.05)
        report = await audit(Books(order, inventory, payment))
    assert report.violations == []
