"""How many may wait for a batch, that nobody waits who is alone, and that batches are measured."""

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest

from tests.buyers import Buyers, Wish, asleep, buyers_at
from tests.conftest import Audit
from tests.e2e.batches import for_all, order, orders_of
from tests.e2e.conftest import Books, Servers, StartServices
from tests.e2e.scraped import metric
from tests.processes import Services


@pytest.fixture(scope="module")
def patient(start_services: StartServices) -> Services:
    """Items gather for a second whenever they may, and few of them may wait."""
    return start_services(**for_all(BATCH_GATHER_S="1", BATCH_QUEUE_MAX="8"), ORDER_PURCHASES_IN_FLIGHT_MAX="1")


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
