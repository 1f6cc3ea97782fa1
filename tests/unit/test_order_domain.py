"""The lifecycle of an order, over all pairs of its states."""

from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from common.contracts.inventory import OutOfStock
from common.contracts.orders import FINAL, CreateOrder, InvalidTransition, OrderCancelled, OrderStatus
from order_service.domain import (
    TRANSITIONS,
    EventRow,
    Move,
    NewOrder,
    OrderRow,
    cancellation,
    failure,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def order(status: OrderStatus = OrderStatus.CREATED, attempts: int = 0) -> OrderRow:
    return OrderRow("id", "ann", status, 100, "USD", "tok_ok", None, "f", 1, 1, attempts, NOW, NOW, {"A": 1})


def event(seq: int, status: OrderStatus, problem: str | None = None) -> EventRow:
    return EventRow(seq, status, None, problem, NOW)


@pytest.mark.parametrize(("before", "after"), list(product(OrderStatus, OrderStatus)))
def test_a_move_is_a_row_of_the_table(before: OrderStatus, after: OrderStatus) -> None:
    """What the table has can be written, what it has not cannot even be decided on."""
    if after in TRANSITIONS[before]:
        assert Move(order(before), (after,)).to is after
    else:
        with pytest.raises(AssertionError):
            Move(order(before), (after,))


@pytest.mark.parametrize("status", OrderStatus)
def test_every_state_leads_to_an_end(status: OrderStatus) -> None:
    """From every state a final one can be reached; none but a completed order leaves its final state."""
    reachable, fresh = {status}, {status}
    while fresh:
        fresh = {after for before in fresh for after in TRANSITIONS[before]} - reachable
        reachable |= fresh
    assert reachable & FINAL
    if status in FINAL and status is not OrderStatus.COMPLETED:
        assert not TRANSITIONS[status]


@pytest.mark.parametrize(("status", "asked"), list(product(OrderStatus, [*OrderStatus, "nonsense"])))
def test_what_a_caller_may_ask_for(status: OrderStatus, asked: str) -> None:
    """Only a cancellation, and only where there is a step to it; anything else names what is allowed."""
    if asked == "cancelled" and status in (OrderStatus.CANCELLING, OrderStatus.CANCELLED):
        assert cancellation(order(status), asked) is None
    elif asked == "cancelled" and OrderStatus.CANCELLING in TRANSITIONS[status]:
        move = cancellation(order(status), asked)
        assert move is not None
        assert move.to is OrderStatus.CANCELLING
    else:
        with pytest.raises(InvalidTransition) as refused:
            cancellation(order(status), asked)
        may = OrderStatus.CANCELLING in TRANSITIONS[status]
        assert refused.value.extra["allowed"] == (["cancelled"] if may else [])


def test_failure_is_the_recorded_problem() -> None:
    """A failed order answers with the error that it failed with, also when it is asked again."""
    refusal = OutOfStock("Not enough.", lines=[{"sku": "A", "requested": 1, "available": 0}])
    move = Move.because_of(refusal, order(), OrderStatus.FAILED)

    error = failure(order(OrderStatus.FAILED), [event(1, OrderStatus.CREATED), event(2, move.to, move.problem)])

    assert isinstance(error, OutOfStock)
    assert (error.detail, error.extra["lines"]) == (refusal.detail, refusal.extra["lines"])
    assert error.extra["order_id"] == "id"


def test_a_cancelled_order_answers_by_whether_it_was_completed() -> None:
    """Who bought and cancelled later had succeeded; who was cancelled before had not."""
    cancelled = order(OrderStatus.CANCELLED)
    assert failure(cancelled, [event(1, OrderStatus.CREATED), event(2, OrderStatus.COMPLETED)]) is None
    assert isinstance(failure(cancelled, [event(1, OrderStatus.CREATED)]), OrderCancelled)


def test_an_order_is_running_until_recovery_has_it() -> None:
    """The first request is at work while the order is not final and was never handed to recovery."""
    assert order().is_running
    assert not order(attempts=1).is_running
    assert not order(OrderStatus.COMPLETED).is_running


def test_the_fingerprint_tells_what_is_ordered() -> None:
    """The same order has the same fingerprint in whatever form it comes; another has another."""

    def fingerprint(**fields: object) -> str:
        body = {"user_id": "ann", "total_amount": 100, **fields}
        return NewOrder.of("id", "ann", CreateOrder.model_validate(body), None).fingerprint

    assert fingerprint(sku="A", quantity=3) == fingerprint(
        items=[{"sku": "A", "quantity": 1}, {"sku": "A", "quantity": 2}]
    )
    others: list[dict[str, Any]] = [
        {"sku": "A"},
        {"sku": "B"},
        {"sku": "A", "quantity": 2},
        {"sku": "A", "currency": "EUR"},
    ]
    assert len({fingerprint(**other) for other in others}) == len(others)
