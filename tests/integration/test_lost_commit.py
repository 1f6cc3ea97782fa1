"""A COMMIT of which nobody knows whether it took effect: run again, it answers the same and writes nothing twice."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pymysql.err import OperationalError

from common.context import trace_context
from common.contracts.orders import OrderStatus
from common.contracts.payments import PaymentStatus, RefundPayment
from common.telemetry import Metrics
from common.transaction import Transaction
from common.versioned import LostRace
from order_service import domain as order_domain
from order_service.domain import OrderRow
from order_service.handoff import Handoff
from order_service.metrics import OrderMetrics
from order_service.purchase import Purchases
from order_service.settings import Settings as OrderSettings
from tests.integration.shop import URL, Shop, new_order, runs_again, shop_at
from tests.integration.writes import (
    Write,
    accept,
    capture,
    complete_orders,
    create,
    decrease_one_sku,
    decrease_too_much,
    increase,
    move_orders,
    open_payments,
    promise_refunds,
    roll_back,
    roll_back_beforehand,
)


class LosesItsFirstCommit(Transaction):
    """The reply to the COMMIT gets lost after it took effect: the transaction is run again as a whole."""

    async def commit(self) -> None:
        await super().commit()
        if not self.is_rerun:
            raise OperationalError(2013, "Lost connection to server during query")


@pytest.mark.parametrize(
    "prepare",
    [
        *(create, decrease_one_sku, decrease_too_much, increase, roll_back, roll_back_beforehand),
        *(accept, move_orders, complete_orders, open_payments, capture, promise_refunds),
    ],
    ids=lambda prepare: prepare.__name__,
)
async def test_a_lost_commit_changes_nothing(
    prepare: Callable[[Shop, int], Awaitable[Write]], urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run again after it took effect, a write gives the same answers and leaves the same rows as if run once."""
    once, twice = [await effect(urls, kind, prepare, monkeypatch) for kind in (Transaction, LosesItsFirstCommit)]
    assert twice == once
    assert any(any(numbers) for numbers in once[1])


async def effect(
    urls: dict[str, str],
    kind: type[Transaction],
    prepare: Callable[[Shop, int], Awaitable[Write]],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[list[type], list[tuple[int, ...]]]:
    """What kind of answers a write of three items gave, and what it added to each table."""
    async with shop_at(urls) as shop:
        write = await prepare(shop, 3)
        before = await books(shop)
        with monkeypatch.context() as patch:
            patch.setattr("common.database.Transaction", kind)
            outcomes = await write()
        assert (runs_again(shop, 2013) > 0) == (kind is LosesItsFirstCommit)
        after = await books(shop)
    changes = [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in zip(before, after, strict=True)]
    return [type(outcome) for outcome in outcomes], changes


async def test_a_lost_commit_makes_no_winner_of_who_came_too_late(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two moves of one order only the one that was written is told so, also when the reply to it got lost."""
    [order] = await shop.new_orders(1)
    won = order_domain.Move(order, (OrderStatus.FAILED,), "why")
    lost = order_domain.Move(order, (OrderStatus.INVENTORY_RESERVED,))
    monkeypatch.setattr("common.database.Transaction", LosesItsFirstCommit)
    outcomes = await shop.orders.move([won, lost])
    assert [type(outcome) for outcome in outcomes] == [OrderRow, LostRace]
    assert await shop.orders.move([lost]) != [won.taken(order.updated_at)]
    assert (await shop.orders.get(order.order_id)).status is OrderStatus.FAILED


async def test_a_lost_commit_of_a_traced_order_is_recognised(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trace travels with the order and is in no row of it: it does not tell two orders apart."""
    trace_context.set("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    [order] = await shop.new_orders(1)
    assert order.trace is not None
    monkeypatch.setattr("common.database.Transaction", LosesItsFirstCommit)
    [moved] = await shop.orders.move([order_domain.Move(order, (OrderStatus.INVENTORY_RESERVED,))])
    assert isinstance(moved, OrderRow)


async def test_orders_that_were_moved_since_a_lost_commit_are_left_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted by a transaction whose reply came late, and meanwhile driven on by recovery: told as they are."""
    new = [new_order()]
    monkeypatch.setattr("common.database.Transaction", LosesItsFirstCommit)
    accepted = await shop.orders.accept(new)
    await shop.orders.move([order_domain.Move(accepted[0], (OrderStatus.FAILED,), "why")])
    settings = OrderSettings(database_url=URL)
    nobody: Any = None
    let_go = Handoff(shop.orders, settings)
    metrics = Metrics("order")
    order_metrics = OrderMetrics(metrics.registry)
    purchases = Purchases(shop.orders, nobody, nobody, let_go, settings, metrics, order_metrics, lambda _: None)
    [begun] = await purchases.begin(new)
    assert (begun.order.order_id, begun.order.status, begun.goes_on) == (new[0].order_id, OrderStatus.FAILED, False)


@pytest.mark.parametrize("ask", ["cancel", "refund"])
async def test_a_lost_commit_leaves_no_promised_refund_to_its_lease(
    ask: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who promised the money back, and did not hear of it, carries it out all the same."""
    captured = await (await capture(shop, 1))()
    monkeypatch.setattr("common.database.Transaction", LosesItsFirstCommit)
    order_id = captured[0].order_id
    asked = (
        shop.payments.begin_cancel(order_id)
        if ask == "cancel"
        else shop.payments.begin_refund(RefundPayment(order_id=order_id))
    )
    begun = await asked
    assert begun.is_new
    assert begun.payment.status is PaymentStatus.REFUNDING
    assert len(await shop.payments.open_refunds(order_id)) == 1


async def books(shop: Shop) -> list[tuple[int, ...]]:
    """Rows and sums of each table."""
    numbers = {
        "inventory": ["COUNT(*), SUM(quantity) FROM inventory", "COUNT(*), SUM(delta) FROM stock_ledger"],
        "order": ["COUNT(*) FROM orders", "COUNT(*), SUM(quantity) FROM order_lines", "COUNT(*) FROM order_events"],
        "payment": ["COUNT(*), SUM(amount) FROM payments", "COUNT(*) FROM payment_events"],
    }
    rows = [
        await shop.databases[service].read(lambda tx, sql=f"SELECT {each}": tx.fetch_one(sql))  # type: ignore[misc]
        for service, tables in numbers.items()
        for each in tables
    ]
    return [tuple(int(value or 0) for value in row) for row in rows if row is not None]
