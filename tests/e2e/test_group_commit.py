"""Group commit in the running services: orders share statements and calls, and nobody notices but the clock."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pymysql
import pytest

from common.database_url import parse_database_url
from tests.buyers import Buyers, Got, Wish, asleep, buyers_at
from tests.conftest import Audit
from tests.e2e.conftest import Books, Servers, wait_until
from tests.e2e.scraped import metric
from tests.processes import Services
from vv.databases import SERVICES, Databases

StartServices = Callable[..., Services]


@pytest.fixture(scope="module")
def start_services(migrated: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServices]:
    """Starts further instances of the three services, with settings of their own, on the same databases."""
    with ExitStack() as running:

        def start(**settings: str) -> Services:
            services = Services(migrated.service_urls, tmp_path_factory.mktemp("more"))
            running.callback(services.stop)
            return services.start(**settings)

        yield start


def for_all(**settings: str) -> dict[str, str]:
    """A setting of each service."""
    return {f"{service.upper()}_{name}": value for name, value in settings.items() for service in SERVICES}


@pytest.fixture(scope="module")
def switched_off(start_services: StartServices) -> Services:
    """No two orders share anything."""
    return start_services(**for_all(MAX_BATCH="1"))


@pytest.fixture(scope="module")
def patient(start_services: StartServices) -> Services:
    """Items gather for a second whenever they may, and few of them may wait."""
    return start_services(**for_all(BATCH_GATHER_S="1", BATCH_QUEUE_MAX="8"), ORDER_PURCHASES_IN_FLIGHT_MAX="1")


@pytest.fixture
async def buyers(services: Services) -> AsyncIterator[Buyers]:
    async with buyers_at(services.order.url) as found:
        yield found


@pytest.fixture(scope="module")
def admin(migrated: Databases) -> Iterator[dict[str, "pymysql.cursors.Cursor"]]:
    """Connections that may do everything."""
    with ExitStack() as stack:
        cursors = {}
        for service, url in migrated.migration_urls.items():
            address = parse_database_url(url)
            connection = pymysql.connect(database=address.pop("db"), autocommit=True, **address)
            cursors[service] = stack.enter_context(contextlib.closing(connection)).cursor()
        yield cursors


def order(sku: str, **fields: Any) -> dict[str, Any]:
    return {"user_id": f"user-{uuid4().hex}", "sku": sku, "total_amount": 700, **fields}


# --- Statements are counted.


async def statements(services: Services, cursor: "pymysql.cursors.Cursor", wishes: Sequence[Wish]) -> Counter[str]:
    """How many statements of each kind the server saw while these orders, all there at once, were completed."""

    def status() -> Counter[str]:
        kinds = "'Com_insert', 'Com_update', 'Com_commit'"
        cursor.execute(f"SHOW GLOBAL STATUS WHERE Variable_name IN ({kinds})")
        return Counter({name: int(count) for name, count in cursor.fetchall()})

    async with buyers_at(services.order.url) as buyers:
        before = status()
        with asleep(services.order):
            waiting = buyers.start(wishes)
            await asyncio.sleep(0.3)
        got = await asyncio.gather(*waiting)
        after = status()
    assert {one.status for one in got} == {201}
    return after - before


@pytest.mark.whole_server
async def test_orders_that_come_at_once_share_their_statements(
    services: Services, servers: Servers, admin: dict[str, "pymysql.cursors.Cursor"]
) -> None:
    """There are fewer INSERTs, UPDATEs and COMMITs in all three databases than orders.

    A statement a row, or a transaction an order, at a single one of the steps would alone be one an order.
    """
    sku = servers.new_sku(1_000)
    counted = await statements(services, admin["order"], [Wish(order(sku)) for _ in range(256)])
    assert {name: count for name, count in counted.items() if count >= 256} == {}


@pytest.mark.whole_server
async def test_switched_off_each_order_has_its_own_statements(
    switched_off: Services, servers: Servers, admin: dict[str, "pymysql.cursors.Cursor"]
) -> None:
    """With MAX_BATCH=1 each of the three services writes each order in transactions of its own."""
    sku = servers.new_sku(1_000)
    counted = await statements(switched_off, admin["order"], [Wish(order(sku)) for _ in range(32)])
    assert {name: count for name, count in counted.items() if count < 3 * 32} == {}


# --- Nobody is disturbed by who stands beside him.


@dataclass(frozen=True)
class Expected:
    """How a wish must end: the answer, and the status of the order once nothing is left to be done."""

    status: int
    code: str | None = None
    final: str | None = None


COMPLETED = Expected(201, None, "completed")
# Recovery, in a hurry in these tests, may be faster or slower than the caller: it is 201 or 202.
FOUND_LATER = 0


def good_and_bad(servers: Servers) -> list[tuple[Wish, Expected]]:
    """Every kind of trouble, and between them orders that have nothing to do with it."""
    skus = [servers.new_sku(1_000) for _ in range(4)]
    empty = servers.new_sku(0)
    bad = [
        (order("UNKNOWN"), Expected(404, "sku_not_found", "failed")),
        (order(empty), Expected(409, "out_of_stock", "failed")),
        (order(skus[0], quantity=1_001), Expected(409, "out_of_stock", "failed")),
        (cart({skus[0]: 1, empty: 1}), Expected(409, "out_of_stock", "failed")),
        (cart({skus[0]: 1, "UNKNOWN": 1}), Expected(404, "sku_not_found", "failed")),
        (order(skus[0], payment_method="tok_declined"), Expected(402, "payment_declined", "failed")),
        (order(skus[0], payment_method="no_such_card"), Expected(402, "payment_declined", "failed")),
        (order(skus[0], payment_method="tok_error"), Expected(202, None, "failed")),
        (order(skus[0], payment_method="tok_timeout"), Expected(FOUND_LATER, None, "completed")),
        (order(skus[0], payment_method="tok_slow"), Expected(FOUND_LATER, None, "completed")),
    ]
    good = [(order(skus[n % 4], quantity=1 + n % 3, total_amount=1_000 + n), COMPLETED) for n in range(64)]
    mixed = [each for n, pair in enumerate(bad * 2) for each in (pair, *good[3 * n : 3 * n + 3])] + good[60:]
    # Of each of the bad ones there are two, by different users.
    return [(Wish({**body, "user_id": f"user-{uuid4().hex}"}), expected) for body, expected in mixed]


def cart(items: dict[str, int]) -> dict[str, Any]:
    lines = [{"sku": sku, "quantity": quantity} for sku, quantity in items.items()]
    return {"user_id": "", "items": lines, "total_amount": 700}


def assert_own(wish: Wish, got: Got) -> None:
    """The order in the answer is the one that its caller wished for."""
    lines = wish.body.get("items") or [{"sku": wish.body["sku"], "quantity": wish.body.get("quantity", 1)}]
    own = {"user_id": wish.body["user_id"], "items": lines, "total_amount": wish.body["total_amount"]}
    assert {name: got.body[name] for name in own} == own


async def test_everybody_gets_his_own_outcome_whoever_stands_beside_him(
    services: Services, switched_off: Services, servers: Servers, books: Books, audit_books: Audit
) -> None:
    """Refusals, declined and silent cards, and good orders, all at once: each gets what he would have got alone, the
    same as with group commit switched off, and no order waits for a slow card."""
    wishes: list[Wish] = []
    expected: list[Expected] = []
    for stack in (services, switched_off):
        sent, wanted = zip(*good_and_bad(servers), strict=True)
        async with buyers_at(stack.order.url) as buyers:
            got = await buyers.send_all(sent)
        assert_answers(sent, wanted, got)
        wishes += sent
        expected += wanted

    await asyncio.to_thread(books.settle)
    assert [[one["status"] for one in orders_of(servers, wish)] for wish in wishes] == [[one.final] for one in expected]
    assert (await audit_books()).violations == []


def assert_answers(wishes: Sequence[Wish], expected: Sequence[Expected], got: Sequence[Got]) -> None:
    answers = [(one.status if each.status else FOUND_LATER, one.code) for one, each in zip(got, expected, strict=True)]
    assert answers == [(each.status, each.code) for each in expected]
    assert {one.status for one, each in zip(got, expected, strict=True) if not each.status} <= {201, 202}
    for wish, one in zip(wishes, got, strict=True):
        if one.status < 300:
            assert_own(wish, one)
    is_slow = [wish.body.get("payment_method") == "tok_slow" for wish in wishes]
    slow, others = ([one.seconds for one, n in zip(got, is_slow, strict=True) if n is kind] for kind in (True, False))
    assert max(others) < min(slow)


def orders_of(servers: Servers, wish: Wish) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = servers.order.get("/orders", user_id=wish.body["user_id"]).json()["items"]
    return found


async def test_keys_that_come_twice_in_one_batch(services: Services, servers: Servers, buyers: Buyers) -> None:
    """Each key makes one order: the copy is a replay or told to wait, another body is refused, others are not hit."""
    sku = servers.new_sku(1_000)
    same, other = order(sku), order(sku)
    keyed = [Wish(same, "k"), Wish(other, "k"), Wish(same, "k"), Wish({**other, "total_amount": 1}, "k")]
    good = [Wish(order(sku, total_amount=1_000 + n)) for n in range(16)]

    with asleep(services.order):
        waiting = buyers.start([*good[:8], *keyed, *good[8:]])
        await asyncio.sleep(0.1)
    got = await asyncio.gather(*waiting)

    first, different, again, mismatch = got[8:12]
    assert sorted([first.status, again.status]) in ([201, 201], [201, 409])
    assert {one.code for one in (first, again) if one.status == 409} <= {"request_in_progress"}
    assert sorted([different.status, mismatch.status]) == [201, 422]
    for wish, one in zip(good, [*got[:8], *got[12:]], strict=True):
        assert one.status == 201, one
        assert_own(wish, one)
    assert [len(orders_of(servers, wish)) for wish in keyed] == [1, 1, 1, 1]
    late = await buyers.send(Wish(same, "k"))
    assert (late.status, late.headers["Idempotent-Replayed"]) == (201, "true")
    mismatched = await buyers.send(Wish({**same, "quantity": 2}, "k"))
    assert (mismatched.status, mismatched.code) == (422, "idempotency_mismatch")


@dataclass(frozen=True)
class Poison:
    """A CHECK that makes the database refuse one particular order at one particular step."""

    service: str
    table: str
    condition: str
    payment_method: str = "tok_ok"


POISONS = {
    "accept": Poison("order", "orders", "total_amount <> {amount}"),
    "accept_lines": Poison("order", "order_lines", "sku <> '{sku}'"),
    "decrease": Poison("inventory", "stock_ledger", "sku <> '{sku}' OR kind <> 'deduct'"),
    "move": Poison("order", "orders", "total_amount <> {amount} OR status = 'created'"),
    "open": Poison("payment", "payments", "amount <> {amount}"),
    "charge": Poison("payment", "sandbox_gateway", "amount <> {amount}"),
    "capture": Poison("payment", "payments", "amount <> {amount} OR status = 'pending'"),
    "rollback": Poison("inventory", "stock_ledger", "sku <> '{sku}' OR kind <> 'rollback'", "tok_declined"),
}


@pytest.mark.alone
@pytest.mark.parametrize("step", ["accept", "accept_lines", "decrease", "move", "open", "rollback"])
async def test_a_value_that_a_database_refuses_disturbs_nobody_else(
    step: str, services: Services, servers: Servers, buyers: Buyers, admin: dict[str, "pymysql.cursors.Cursor"]
) -> None:
    """One order of a batch cannot be written, whatever the step: it fails or is left for later, its neighbours get
    what they would have got without it, and it ends once it can be written."""
    poison, sku = POISONS[step], servers.new_sku(1_000)
    own_sku, amount = servers.new_sku(1_000), uuid4().int % 10**12 + 10**6
    good = [Wish(order(sku, total_amount=1_000 + n, payment_method=poison.payment_method)) for n in range(24)]
    bad = Wish(order(own_sku, total_amount=amount, payment_method=poison.payment_method))

    with refused(admin[poison.service], poison.table, poison.condition.format(sku=own_sku, amount=amount)):
        with asleep(services.order):
            waiting = buyers.start([*good[:12], bad, *good[12:]])
            await asyncio.sleep(0.1)
        got = await asyncio.gather(*waiting)

    refusal = got.pop(12)
    assert refusal.status in (202, 402, 500), refusal
    wanted = (402, "payment_declined") if poison.payment_method == "tok_declined" else (201, None)
    assert Counter((one.status, one.code) for one in got) == {wanted: 24}
    for wish, one in zip(good, got, strict=True):
        if one.status == 201:
            assert_own(wish, one)
    assert max(one.seconds for one in got) < 2
    wait_until(lambda: all(one["status"] in ("completed", "failed") for one in orders_of(servers, bad)), 20)


@contextmanager
def refused(cursor: "pymysql.cursors.Cursor", table: str, condition: str) -> Iterator[None]:
    """The database refuses rows that do not fit, for a block."""
    cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT poison CHECK ({condition})")
    try:
        yield
    finally:
        cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT poison")


@pytest.mark.parametrize("step", ["decrease", "rollback", "open", "charge", "capture"])
def test_a_batch_call_names_the_one_that_a_database_refuses(
    step: str, servers: Servers, admin: dict[str, "pymysql.cursors.Cursor"]
) -> None:
    """A batch over HTTP is answered 200 with an outcome for each item, also when one cannot be written."""
    poison, sku, bad_sku = POISONS[step], servers.new_sku(1_000), servers.new_sku(1_000)
    server, amount = servers.of(poison.service), uuid4().int % 10**12 + 10**6
    ids = [f"{uuid4()}" for _ in range(9)]
    if poison.service == "inventory":
        path, items = "/inventory/decrease/batch", [{"sku": sku, "quantity": 1, "request_id": each} for each in ids]
        items[4]["sku"] = bad_sku
    else:
        path, items = "/payments/batch", [{"order_id": each, "amount": 700} for each in ids]
        items[4]["amount"] = amount
    if step == "rollback":
        assert server.post(path, {"items": items}).status == 200
        path, items = "/inventory/rollback/batch", [{"request_id": each} for each in ids]

    with refused(admin[poison.service], poison.table, poison.condition.format(sku=bad_sku, amount=amount)):
        answer = server.post(path, {"items": items})
    for each in ids if poison.service == "payment" else []:
        # Leave clean books behind: these payments belong to no order.
        server.post("/payments/cancel", {"order_id": each})

    assert answer.status == 200, answer.body
    outcomes = answer.json()["items"]
    refusal = outcomes.pop(4)
    assert refusal["status"] in (202, 500), refusal
    assert {outcome["status"] for outcome in outcomes} <= {200, 201}
    own = "request_id" if poison.service == "inventory" else "order_id"
    assert [outcome["result"][own] for outcome in outcomes] == [each for n, each in enumerate(ids) if n != 4]


# --- Callers that go away, and the order in which they came.


async def test_callers_that_go_away_disturb_nobody(
    servers: Servers, buyers: Buyers, books: Books, admin: dict[str, "pymysql.cursors.Cursor"], audit_books: Audit
) -> None:
    """Half of the callers of a batch hang up while it is held up: the others get their orders, and all are carried
    out."""
    sku = servers.new_sku(100)
    wishes = [Wish(order(sku, total_amount=1_000 + n)) for n in range(32)]
    with books.row_locked("inventory", "SELECT * FROM inventory WHERE sku = %s FOR UPDATE", sku):
        waiting = buyers.start(wishes)
        while admin["order"].execute("SELECT 1 FROM order_lines WHERE sku = %s", (sku,)) < len(wishes):
            await asyncio.sleep(0.02)
        for task in waiting[::2]:
            task.cancel()
        await asyncio.sleep(0.1)
    got = await asyncio.gather(*waiting, return_exceptions=True)

    for wish, one in zip(wishes[1::2], got[1::2], strict=True):
        assert isinstance(one, Got)
        # 202 when the machine is so slow that recovery, in a hurry in these tests, takes part.
        assert one.status in (201, 202)
        assert_own(wish, one)
    assert {type(one) for one in got[::2]} == {asyncio.CancelledError}
    await asyncio.to_thread(books.settle)
    assert {one["status"] for wish in wishes for one in orders_of(servers, wish)} == {"completed"}
    assert servers.inventory.get("/inventory/sku", sku=sku).json()["quantity"] == 100 - 32
    assert (await audit_books()).violations == []


async def test_stock_is_given_out_in_the_order_of_arrival(servers: Servers, books: Books) -> None:
    """Requests that arrive one after the other while the first is held up: the first ones get the units."""
    sku = servers.new_sku(12)
    bodies = [{"sku": sku, "quantity": 1, "request_id": f"{uuid4()}"} for _ in range(40)]
    async with buyers_at(servers.inventory.url) as buyers:
        with books.row_locked("inventory", "SELECT * FROM inventory WHERE sku = %s FOR UPDATE", sku):
            waiting = []
            for body in bodies:
                waiting += buyers.start([Wish(body, path="/inventory/decrease")])
                await asyncio.sleep(0.01)
        got = await asyncio.gather(*waiting)
    assert [one.status for one in got] == [200] * 12 + [409] * 28
    assert [one.body["items"][0]["quantity"] for one in got[:12]] == [*range(11, -1, -1)]


def test_within_a_batch_call_the_first_get_the_stock(servers: Servers) -> None:
    """A call with more items than share a transaction gives the units to the first ones; the answers are in order."""
    sku = servers.new_sku(100)
    items = [{"sku": sku, "quantity": 1, "request_id": f"{uuid4()}"} for _ in range(200)]
    outcomes = servers.inventory.post("/inventory/decrease/batch", {"items": items}).json()["items"]
    assert [outcome["status"] for outcome in outcomes] == [200] * 100 + [409] * 100
    assert [one["result"]["request_id"] for one in outcomes[:100]] == [item["request_id"] for item in items[:100]]


# --- Limits and numbers.


def held_up(service: str, sku: str) -> tuple[str, tuple[object, ...], str, list[dict[str, Any]]]:
    """A statement whose locks hold a service up, and requests to it of which the first one meets these locks."""
    ids = [f"{uuid4()}" for _ in range(13)]
    if service == "inventory":
        bodies = [{"sku": sku, "quantity": 1, "request_id": each} for each in ids]
        return "SELECT * FROM inventory WHERE sku = %s FOR UPDATE", (sku,), "/inventory/decrease", bodies
    insert = (
        "INSERT INTO payments (order_id, payment_id, amount, currency, payment_method, status) "
        "VALUES (%s, 'x', 1, 'USD', 'x', 'pending')"
    )
    return insert, (ids[0],), "/payments", [{"order_id": each, "amount": 700} for each in ids]


@pytest.mark.alone
@pytest.mark.parametrize("service", ["inventory", "payment"])
async def test_a_full_queue_is_answered_at_once(
    service: str, patient: Services, servers: Servers, books: Books, audit_books: Audit
) -> None:
    """While the database is held up nine requests wait, one in flight and eight in the queue; the others are told to
    come again. Those that waited get their outcome."""
    sql, args, path, bodies = held_up(service, servers.new_sku(100))
    url: str = getattr(patient, service).url
    async with buyers_at(url) as buyers:
        with books.row_locked(service, sql, *args):
            waiting = buyers.start([Wish(bodies[0], "k", path)])
            await asyncio.sleep(0.1)
            waiting += buyers.start([Wish(body, None, path) for body in bodies[1:9]])
            await asyncio.sleep(0.1)
            refused = await buyers.send_all([Wish(body, None, path) for body in bodies[9:]])
            assert not any(task.done() for task in waiting)
        got = await asyncio.gather(*waiting)

    assert [(one.status, one.code, one.headers["Retry-After"]) for one in refused] == [(503, "overloaded", "1")] * 4
    assert max(one.seconds for one in refused) < 0.5
    assert {one.status for one in got} <= {200, 201}
    for body in bodies if service == "payment" else []:
        servers.payment.post("/payments/cancel", {"order_id": body["order_id"]})
    await asyncio.to_thread(books.settle)
    assert (await audit_books()).violations == []


async def test_orders_beyond_the_queue_are_refused_at_once(
    patient: Services, servers: Servers, books: Books, audit_books: Audit
) -> None:
    """Of a burst as many are taken in as fit into the queue, and end; the others are told to come again, and have no
    order."""
    wishes = [Wish(order(servers.new_sku(100), user_id=f"{uuid4()}")) for _ in range(40)]
    async with buyers_at(patient.order.url) as buyers:
        with asleep(patient.order):
            waiting = buyers.start(wishes)
            await asyncio.sleep(0.3)
        got = await asyncio.gather(*waiting)
    refused = [one for one in got if one.status == 503]
    assert refused
    assert {(one.code, one.headers["Retry-After"]) for one in refused} == {("overloaded", "1")}
    # With a queue of eight some of those that were taken in may be left to recovery further on.
    assert {one.status for one in got} <= {201, 202, 503}
    await asyncio.to_thread(books.settle)
    for wish, one in zip(wishes, got, strict=True):
        found = [order["status"] for order in orders_of(servers, wish)]
        assert found == ([] if one.status == 503 else ["completed"]), one
    assert (await audit_books()).violations == []


@pytest.mark.alone
async def test_an_order_alone_waits_for_nobody(patient: Services, servers: Servers) -> None:
    """However long items may gather, one after the other they are as fast as ever."""
    sku = servers.new_sku(100)
    async with buyers_at(patient.order.url) as buyers:
        got = [await buyers.send(Wish(order(sku))) for _ in range(5)]
    assert {one.status for one in got} == {201}
    assert max(one.seconds for one in got) < 0.9


BATCHERS = {
    "order": {"begin": 1},
    "inventory": {"decreases": 1},
    "payment": {"open": 1, "sandbox": 1, "move": 1},
}


# Those that only orders go through that are declined.
FEW = [("order", "move"), ("inventory", "rollbacks")]


async def test_batches_are_measured(services: Services, servers: Servers, buyers: Buyers) -> None:
    """Each item is counted once in the sizes and once in the waits of its batcher; nothing stays in flight."""
    sku = servers.new_sku(1_000)
    kinds = [(service, name) for service, names in BATCHERS.items() for name in names]
    kinds += FEW
    before = {kind: measured(servers, *kind) for kind in kinds}
    declined = [Wish(order(sku, payment_method="tok_declined")) for _ in range(8)]
    got = await buyers.send_all([Wish(order(sku)) for _ in range(56)] + declined)
    assert Counter(one.status for one in got) == {201: 56, 402: 8}
    after = {kind: measured(servers, *kind) for kind in kinds}

    for kind in kinds:
        items, waits, batches = (b - a for a, b in zip(before[kind], after[kind], strict=True))
        assert items == waits, kind
        assert items >= (8 if kind in FEW else 64), kind
        assert 0 < batches < items, kind
        assert metric(servers.of(kind[0]), "vv_batches_in_flight", batcher=kind[1]) == 0
    exact = {kind: after[kind][0] - before[kind][0] for kind in kinds if kind[1] != "move"}
    assert {items for kind, items in exact.items() if kind not in FEW} == {64}


def measured(servers: Servers, service: str, batcher: str) -> tuple[float, float, float]:
    """Items by their batches, items by their waits, and batches."""
    names = ("vv_batch_items_sum", "vv_batch_wait_seconds_count", "vv_batch_items_count")
    items, waits, batches = (metric(servers.of(service), name, batcher=batcher) for name in names)
    return items, waits, batches


# --- A gateway that takes its time.


@pytest.fixture
def slow_gateway(start_services: StartServices) -> Services:
    """Half a second a charge."""
    # The usual leases, so that recovery stays out of it.
    return start_services(PAYMENT_SANDBOX_LATENCY_S="0.5", ORDER_LEASE_S="12", PAYMENT_LEASE_S="20")


@pytest.mark.alone
async def test_a_slow_gateway_holds_up_nobody(
    slow_gateway: Services, servers: Servers, books: Books, audit_books: Audit
) -> None:
    """A thousand buyers at once, half a second a charge: the charges go on side by side, without a thread each."""
    sku = servers.new_sku(1_000)
    async with buyers_at(slow_gateway.order.url) as buyers:
        started = time.perf_counter()
        sending = asyncio.gather(*buyers.start([Wish(order(sku)) for _ in range(1_000)]))
        threads = 0
        while not sending.done():
            threads = max(threads, threads_of(slow_gateway.payment.process.pid))
            await asyncio.sleep(0.05)
        seconds = time.perf_counter() - started

    assert Counter(one.status for one in sending.result()) == {201: 1_000}
    # One after the other they would take 500 seconds, and 8 seconds if one batch of 64 waited for the other.
    assert seconds < 8
    assert threads <= 4
    assert servers.inventory.get("/inventory/sku", sku=sku).json()["quantity"] == 0
    assert (await audit_books()).violations == []


@pytest.mark.alone
async def test_slow_cards_hold_up_no_other_order(servers: Servers, buyers: Buyers) -> None:
    """Every second card takes a second longer; the orders with the other cards are done long before."""
    sku = servers.new_sku(1_000)
    cards = ["tok_slow", "tok_ok"]
    wishes = [Wish(order(sku, payment_method=cards[n % 2])) for n in range(128)]
    got = await buyers.send_all(wishes)
    slow, fast = got[::2], got[1::2]
    assert {one.status for one in fast} == {201}
    assert {one.status for one in slow} <= {201, 202}
    assert max(one.seconds for one in fast) < 1 <= min(one.seconds for one in slow)


@pytest.mark.alone
async def test_a_locked_sku_holds_up_nobody_else(
    services: Services, servers: Servers, buyers: Buyers, books: Books, audit_books: Audit
) -> None:
    """Somebody edits a SKU and does not commit: orders of other SKUs complete as ever, those of this one afterwards."""
    locked, free = servers.new_sku(100), servers.new_sku(100)
    with books.row_locked("inventory", "SELECT * FROM inventory WHERE sku = %s FOR UPDATE", locked):
        kept_back = buyers.start([Wish(order(locked)) for _ in range(16)])
        others = []
        for _ in range(6):
            others += await buyers.send_all([Wish(order(free)) for _ in range(8)])
            await asyncio.sleep(0.2)
        assert not any(task.done() for task in kept_back)
    late = await asyncio.gather(*kept_back)

    assert {one.status for one in others} == {201}
    assert sorted(one.seconds for one in others)[len(others) // 2] < 0.5
    assert max(one.seconds for one in others) < 1.5
    assert {one.status for one in late} <= {201, 202}
    await asyncio.to_thread(books.settle)
    assert servers.inventory.get(f"/inventory/sku?sku={locked}").json()["quantity"] == 84
    assert (await audit_books()).violations == []


def threads_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("Threads:")).split()[1])
