"""One order of a batch that a database refuses, at whatever step: its neighbours do not notice."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import pymysql
import pytest

from tests.buyers import Buyers, Wish, asleep
from tests.e2e.batches import assert_own, order, orders_of
from tests.e2e.conftest import Servers, wait_until
from tests.processes import Services


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
