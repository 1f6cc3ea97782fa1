"""Orders that come at once share statements and calls, and each ends as if it had come alone."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pymysql
import pytest

from tests.buyers import Buyers, Got, Wish, asleep, buyers_at
from tests.conftest import Audit
from tests.e2e.batches import assert_own, for_all, order, orders_of
from tests.e2e.conftest import Books, Servers, StartServices
from tests.processes import Services


@pytest.fixture(scope="module")
def switched_off(start_services: StartServices) -> Services:
    """No two orders share anything."""
    return start_services(**for_all(MAX_BATCH="1"))


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
