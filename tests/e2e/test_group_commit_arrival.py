"""Callers who share a batch come in an order, which counts, and may go away, which disturbs nobody."""

import asyncio
from uuid import uuid4

import pymysql

from tests.buyers import Buyers, Got, Wish, buyers_at
from tests.conftest import Audit
from tests.e2e.batches import assert_own, order, orders_of
from tests.e2e.conftest import Books, Servers


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
