"""Orders while the instances of the services behind them come and go: real processes, found by a real DNS server."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from common.clients import AsyncInventoryClient, AsyncOrderClient, OrderStatus
from tests.buyers import Got, Wish, buyers_at
from tests.conftest import Audit
from tests.dns_server import TTL_S, DnsServer, Srv, dns_server
from tests.faults.harness.metrics import total
from tests.processes import FAST_RECOVERY, ServiceProcess
from vv.databases import Databases

_BUYERS = 12
# As long as what the order service knew was good for, and a moment to ask again.
_HEARD_S = TTL_S + 0.3


class Shop:
    """An order service, and what DNS says of the services behind it."""

    def __init__(self, server: DnsServer, migrated: Databases, folder: Path) -> None:
        environment = {f"{name.upper()}_DATABASE_URL": url for name, url in migrated.service_urls.items()}
        environment |= FAST_RECOVERY
        self._server = server
        self.stock = [ServiceProcess("inventory", environment, folder / f"inventory-{name}.log") for name in "abc"]
        self.payment = ServiceProcess("payment", environment, folder / "payment.log")
        environment |= {
            # Many calls for few orders.
            "ORDER_MAX_BATCH": "2",
            "ORDER_PURCHASES_IN_FLIGHT_MAX": "6",
            "ORDER_NAMESERVER": server.address,
            "ORDER_INVENTORY_URL": "srv+http://_inventory._tcp.shop.test",
            "ORDER_PAYMENT_URL": "srv+http://_payment._tcp.shop.test",
        }
        self.order = ServiceProcess("order", environment, folder / "order.log")

    def start(self) -> None:
        self.name()
        with ThreadPoolExecutor() as pool:
            list(pool.map(ServiceProcess.start, [*self.stock, self.payment, self.order]))

    def stop(self) -> None:
        for process in [self.order, *self.stock, self.payment]:
            if process.is_running:
                process.stop()

    def name(self, *stock: ServiceProcess) -> None:
        """These are the inventory services, DNS says."""
        records = [Srv("inventory", f"inventory-{process.port}", process.port) for process in stock]
        self._server.serve([*records, Srv("payment", "payment", self.payment.port)])

    @property
    def alive(self) -> list[ServiceProcess]:
        """The inventory services that are up."""
        return [process for process in self.stock if process.process.poll() is None]

    async def shares(self, calls: int) -> list[int]:
        """How many of the next calls, at least so many, go to each of those."""
        before, shares = await self._served(), [0]
        async with asyncio.timeout(10):
            while sum(shares) < calls:
                await asyncio.sleep(0.05)
                shares = [now - then for now, then in zip(await self._served(), before, strict=True)]
        return shares

    async def _served(self) -> list[int]:
        route = "/inventory/decrease/batch"
        return [
            await total(process.url, "vv_http_requests_total", lambda labels: labels["route"] == route)
            for process in self.alive
        ]


@pytest.fixture(scope="module")
def shop(migrated: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with dns_server() as server:
        shop = Shop(server, migrated, tmp_path_factory.mktemp("shop"))
        try:
            shop.start()
            yield shop
        finally:
            shop.stop()


@asynccontextmanager
async def shopping(shop: Shop) -> AsyncIterator[list[Got]]:
    """Buyers who buy one after the other during a block; what each of them got."""
    async with AsyncInventoryClient(shop.alive[0].url) as inventory:
        sku = (await inventory.create(product_id="p", sku=f"SKU-{shop.order.port}-{id(inventory)}", quantity=10**6)).sku
    got: list[Got] = []
    ended = asyncio.Event()

    async def buy(number: int) -> None:
        for turn in count():
            if ended.is_set():
                return
            wish = Wish({"user_id": f"buyer-{number}", "sku": sku, "total_amount": 700}, f"{sku}-{number}-{turn}")
            got.append(await buyers.send(wish))

    async with buyers_at(shop.order.url) as buyers:
        tasks = [asyncio.create_task(buy(number)) for number in range(_BUYERS)]
        try:
            await asyncio.sleep(0.3)
            yield got
        finally:
            ended.set()
            await asyncio.gather(*tasks)


def statuses(got: list[Got]) -> Counter[int]:
    return Counter(one.status for one in got)


async def test_no_order_fails_while_instances_come_and_go(shop: Shop, audit_books: Audit) -> None:
    """One is shut down though DNS still names it; one is new and gets its share; one is named no more, though it is up,
    and gets nothing after a second."""
    first, second, third = shop.stock
    shop.name(first, second)
    async with shopping(shop) as got:
        assert await asyncio.to_thread(first.stop) == 0
        await asyncio.sleep(0.3)

        shop.name(second, third)
        await asyncio.sleep(_HEARD_S)
        shares = await shop.shares(60)
        assert min(shares) > sum(shares) / 5

        shop.name(third)
        await asyncio.sleep(_HEARD_S)
        shares = await shop.shares(30)
        assert shares[0] == 0
    assert set(statuses(got)) == {201}
    assert (await audit_books()).violations == []


async def test_a_killed_instance_leaves_orders_unknown_at_worst(shop: Shop, audit_books: Audit) -> None:
    """``kill -9`` of one that DNS goes on naming: what was on its way may be answered with 202, and is completed; from
    a second later on every order is completed at once."""
    victim, other = shop.alive[-2:]
    shop.name(victim, other)
    async with shopping(shop) as got:
        await asyncio.sleep(_HEARD_S)
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(1)
        soon = len(got)
        await asyncio.sleep(1)
    assert set(statuses(got)) <= {201, 202}
    assert set(statuses(got[soon + _BUYERS :])) == {201}
    async with AsyncOrderClient(shop.order.url) as orders, asyncio.timeout(10):
        for unfinished in [one for one in got if one.status == 202]:
            while (await orders.get(unfinished.body["order_id"])).status is not OrderStatus.COMPLETED:
                await asyncio.sleep(0.05)
    assert (await audit_books()).violations == []
