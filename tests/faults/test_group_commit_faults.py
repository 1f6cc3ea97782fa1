"""Batches that are cut off: services end or are killed while many orders share their transactions and calls."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext

import pymysql
import pytest

from common.clients import AsyncInventoryClient, AsyncOrderClient, Order, OrderStatus
from common.database_url import parse_database_url
from tests.buyers import Buyers, Got, Wish, asleep, buyers_at
from tests.conftest import Audit, MakeSku, open_database
from tests.processes import ServiceProcess, Services
from vv.databases import Databases


@pytest.fixture
def healed(services: Services) -> Iterator[Services]:
    """Whatever the test ended runs again afterwards, with the usual settings."""
    yield services
    for service in services.all:
        if not service.is_as_usual and service.process.poll() is None:
            service.stop()
        if service.process.poll() is not None:
            service.start()


def wishes_for(sku: str, n: int, *cards: str) -> list[Wish]:
    """Orders of one unit, each by a user of his own; the cards take turns."""
    cards = cards or ("tok_ok",)
    bodies = [{"user_id": f"{sku}-{i}", "sku": sku, "total_amount": 700 + i} for i in range(n)]
    return [Wish({**body, "payment_method": cards[i % len(cards)]}) for i, body in enumerate(bodies)]


async def orders_of(orders: AsyncOrderClient, wishes: Sequence[Wish]) -> list[list[Order]]:
    """The orders of each user."""
    limit = asyncio.Semaphore(32)

    async def of(user_id: str) -> list[Order]:
        async with limit:
            return [order async for order in orders.list(user_id=user_id)]

    return await asyncio.gather(*(of(wish.body["user_id"]) for wish in wishes))


async def all_final(orders: AsyncOrderClient, wishes: Sequence[Wish]) -> list[list[Order]]:
    """The orders of each user, once all of them have ended."""
    async with asyncio.timeout(30):
        while True:
            found = await orders_of(orders, wishes)
            if {order.status for each in found for order in each} <= {OrderStatus.COMPLETED, OrderStatus.FAILED}:
                return found
            await asyncio.sleep(0.2)


async def unfinished(url: str, table: str) -> int:
    """How many rows somebody must still do something about."""
    async with open_database(url) as database:
        row = await database.read(lambda tx: tx.fetch_one(f"SELECT COUNT(lease_until) FROM {table}"))
    assert row is not None
    return int(row[0])


async def keep_coming(buyers: Buyers, wishes: Sequence[Wish]) -> "list[asyncio.Task[Got]]":
    """Buyers arrive over half a second."""
    waiting = []
    for wish in wishes:
        waiting += buyers.start([wish])
        await asyncio.sleep(0.5 / len(wishes))
    return waiting


@pytest.mark.parametrize("service", ["order", "payment"])
async def test_a_service_that_ends_finishes_what_it_began(
    service: str, healed: Services, migrated: Databases, make_sku: MakeSku, audit_books: Audit
) -> None:
    """SIGTERM amid a rush: nobody is answered 5xx, every order that was accepted ends, also those of slow cards,
    and what the service itself was driving ends without waiting for recovery."""
    sku = await make_sku(1_000)
    wishes = wishes_for(sku, 120, "tok_ok", "tok_ok", "tok_slow" if service == "payment" else "tok_ok")
    process: ServiceProcess = getattr(healed, service)
    async with buyers_at(healed.order.url) as buyers:
        coming = asyncio.create_task(keep_coming(buyers, wishes))
        await asyncio.sleep(0.25)
        assert await asyncio.to_thread(process.stop) == 0
        table = {"order": "orders", "payment": "payments"}[service]
        assert await unfinished(migrated.service_urls[service], table) == 0
        await asyncio.to_thread(process.start)
        got = await asyncio.gather(*await coming)

    allowed = {0, 201} if service == "order" else {201, 202}
    answers = Counter(one.status for one in got)
    assert answers.keys() <= allowed, answers
    assert answers[201] > 0
    async with AsyncOrderClient(healed.order.url) as orders:
        found = await all_final(orders, wishes)
    # Who was not answered has no order, who was answered has his own one.
    assert [len(each) for each in found] == [int(one.status > 0) for one in got]
    assert [each[0].order_id for each in found if each] == [one.body["order_id"] for one in got if one.status]
    assert {order.status for each in found for order in each} == {OrderStatus.COMPLETED}
    assert (await audit_books()).violations == []


@pytest.mark.parametrize("service", ["order", "inventory"])
async def test_a_service_that_ends_empties_its_queues(
    service: str, healed: Services, migrated: Databases, inventory: AsyncInventoryClient, make_sku: MakeSku
) -> None:
    """SIGTERM while one batch is held up by a lock and the others wait for it: everybody gets what he came for."""
    sku = await make_sku(1_000)
    process: ServiceProcess = getattr(healed, service)
    wishes = wishes_for(sku, 64)
    if service == "inventory":
        body = {"sku": sku, "quantity": 1}
        wishes = [Wish({**body, "request_id": f"{sku}-{n}"}, path="/inventory/decrease") for n in range(64)]
    async with buyers_at(process.url) as buyers:
        with held_up(migrated, sku):
            waiting = buyers.start(wishes)
            await asyncio.sleep(0.5)
            process.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            assert not any(task.done() for task in waiting)
            assert (await buyers.send(wishes[0])).status == 0
        got = await asyncio.gather(*waiting)
        assert await asyncio.to_thread(process.wait_for_end) == 0
    await asyncio.to_thread(process.start)

    assert Counter(one.status for one in got) == {201 if service == "order" else 200: 64}
    assert (await inventory.get(sku)).quantity == 1_000 - 64


async def in_a_held_up_batch(migrated: Databases, sku: str, waiting: "list[asyncio.Task[Got]]") -> None:
    """Every order was accepted, and waits for stock that is locked."""
    async with open_database(migrated.service_urls["order"]) as database:
        while True:
            lines = await database.read(
                lambda tx: tx.fetch_one("SELECT COUNT(*) FROM order_lines WHERE sku = %s", (sku,))
            )
            if lines == (len(waiting),):
                return
            await asyncio.sleep(0.05)


async def among_slow_charges(migrated: Databases, sku: str, waiting: "list[asyncio.Task[Got]]") -> None:
    """The first orders are done, and charges of slow cards are under way."""
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)


Moment = Callable[[Databases, str, "list[asyncio.Task[Got]]"], Awaitable[None]]


@pytest.mark.parametrize(
    ("service", "moment"),
    [("order", in_a_held_up_batch), ("inventory", in_a_held_up_batch), ("payment", among_slow_charges)],
    ids=["order", "inventory", "payment"],
)
async def test_a_service_killed_amid_batches_leaves_no_order_behind(
    service: str,
    moment: Moment,
    healed: Services,
    migrated: Databases,
    inventory: AsyncInventoryClient,
    make_sku: MakeSku,
    audit_books: Audit,
) -> None:
    """``kill -9`` while batches are on their way: once it runs again every order that was accepted ends, once."""
    sku = await make_sku(1_000)
    wishes = wishes_for(sku, 96, "tok_ok", "tok_slow", "tok_declined")
    process: ServiceProcess = getattr(healed, service)
    async with buyers_at(healed.order.url) as buyers:
        with held_up(migrated, sku) if moment is in_a_held_up_batch else nullcontext():
            waiting = buyers.start(wishes)
            async with asyncio.timeout(4):
                await moment(migrated, sku, waiting)
            process.kill()
        await asyncio.to_thread(process.start)
        got = await asyncio.gather(*waiting)

    assert {one.status for one in got} <= {0, 201, 202, 402}
    await assert_all_end(healed, wishes, inventory, accepted=len(wishes))
    assert (await audit_books()).violations == []


@pytest.mark.parametrize(("service", "point"), [("order", "charged"), ("payment", "charged")])
async def test_a_batch_of_which_half_is_written_down_is_carried_out(
    service: str,
    point: str,
    healed: Services,
    inventory: AsyncInventoryClient,
    make_sku: MakeSku,
    audit_books: Audit,
) -> None:
    """The first of many orders that gets so far kills the service; stock and money of its whole batch are accounted
    for all the same."""
    sku = await make_sku(1_000)
    wishes = wishes_for(sku, 64, "tok_ok", "tok_ok", "tok_declined")
    process: ServiceProcess = getattr(healed, service)
    await asyncio.to_thread(process.stop)
    await asyncio.to_thread(lambda: process.start(**{f"{service.upper()}_CRASH_POINT": point}))
    async with buyers_at(healed.order.url) as buyers:
        waiting = buyers.start(wishes)
        assert await asyncio.to_thread(process.wait_for_end) == -9
        await asyncio.to_thread(process.start)
        got = await asyncio.gather(*waiting)

    assert {one.status for one in got} <= {0, 201, 202, 402}
    await assert_all_end(healed, wishes, inventory, accepted=1)
    assert (await audit_books()).violations == []


@contextmanager
def table_locked(migrated: Databases) -> Iterator[None]:
    """No order can be read or written for a block, and no lock wait of a row ends that."""
    address = parse_database_url(migrated.migration_urls["order"])
    with closing(pymysql.connect(database=address.pop("db"), **address)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES orders WRITE")
        yield


@pytest.mark.alone
@pytest.mark.parametrize("hangs", ["inventory", "payment", "database"])
async def test_nobody_waits_behind_groups_that_hang(
    hangs: str, healed: Services, migrated: Databases, make_sku: MakeSku, audit_books: Audit
) -> None:
    """Two groups at a time, each of which hangs for two seconds: the last of a dozen would wait for six of them."""
    sku = await make_sku(1_000)
    wishes = wishes_for(sku, 96)
    await asyncio.to_thread(healed.order.stop)
    impatient = {"ORDER_MAX_BATCH": "8", "ORDER_CALL_TIMEOUT_S": "2", "ORDER_TRANSACTION_TIMEOUT_S": "2"}
    await asyncio.to_thread(lambda: healed.order.start(**impatient))
    hanging = table_locked(migrated) if hangs == "database" else asleep(getattr(healed, hangs))
    async with buyers_at(healed.order.url) as buyers:
        with hanging:
            got = await buyers.send_all(wishes)
        assert {one.status for one in got} == {503 if hangs == "database" else 202}
        assert max(one.seconds for one in got) < 5.5
        async with AsyncOrderClient(healed.order.url) as orders:
            await all_final(orders, wishes)
    assert (await audit_books()).violations == []


async def assert_all_end(
    services: Services, wishes: Sequence[Wish], inventory: AsyncInventoryClient, *, accepted: int
) -> None:
    """Every order ends as its card says, and the stock is what the completed ones left."""
    async with AsyncOrderClient(services.order.url) as orders:
        found = await all_final(orders, wishes)
    assert max(map(len, found)) == 1
    ended = [order for each in found for order in each]
    assert len(ended) >= accepted
    for order in ended:
        declined = order.payment_method == "tok_declined"
        assert order.status is (OrderStatus.FAILED if declined else OrderStatus.COMPLETED), order
    completed = sum(order.status is OrderStatus.COMPLETED for order in ended)
    assert (await inventory.get(wishes[0].body["sku"])).quantity == 1_000 - completed


@contextmanager
def held_up(migrated: Databases, sku: str) -> Iterator[None]:
    """Nobody gets stock of the SKU for a block."""
    address = parse_database_url(migrated.service_urls["inventory"])
    with closing(pymysql.connect(database=address.pop("db"), **address)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM inventory WHERE sku = %s FOR UPDATE", (sku,))
        yield
