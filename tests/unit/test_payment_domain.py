"""The lifecycle of a payment, over all pairs of its states."""

from datetime import UTC, datetime
from itertools import product

import pytest

from common.contracts.payments import CreatePayment, Payment, PaymentCancelled, PaymentDeclined, PaymentStatus
from common.errors import IdempotencyMismatch
from payment_service.domain import OUTSTANDING, TRANSITIONS, Move, PaymentRow, answer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ORDER_ID = "01a2042a-7bf1-7255-ad0b-a61e96c9d686"


def payment(status: PaymentStatus = PaymentStatus.PENDING, amount: int = 100, user_id: str | None = None) -> PaymentRow:
    return PaymentRow(ORDER_ID, "p", amount, "USD", "tok_ok", status, 0, None, 1, 1, 0, 0, user_id, NOW, NOW)


@pytest.mark.parametrize(("before", "after"), list(product(PaymentStatus, PaymentStatus)))
def test_a_move_is_a_row_of_the_table(before: PaymentStatus, after: PaymentStatus) -> None:
    """What the table has can be written, what it has not cannot even be decided on."""
    if after in TRANSITIONS[before]:
        assert Move(payment(before), after).to is after
    else:
        with pytest.raises(AssertionError):
            Move(payment(before), after)


@pytest.mark.parametrize("status", sorted(OUTSTANDING))
def test_what_is_outstanding_can_be_settled(status: PaymentStatus) -> None:
    """From every state in which something is outstanding one can be reached in which nothing is."""
    reachable, fresh = {status}, {status}
    while fresh:
        fresh = {after for before in fresh for after in TRANSITIONS[before]} - reachable
        reachable |= fresh
    assert reachable - OUTSTANDING


@pytest.mark.parametrize("status", PaymentStatus)
def test_the_answer_to_a_charge(status: PaymentStatus) -> None:
    """A charge of an order that has a payment is answered with that payment, or with why it will not be made."""
    outcome = answer(CreatePayment(order_id=ORDER_ID, amount=100), payment(status))
    expected = {
        PaymentStatus.DECLINED: PaymentDeclined,
        PaymentStatus.VOIDED: PaymentCancelled,
        PaymentStatus.CANCELLING: PaymentCancelled,
    }
    assert isinstance(outcome, expected.get(status, Payment))


def test_another_amount_is_a_mistake() -> None:
    """An order has one payment; charging it with another amount is refused."""
    wanted = CreatePayment(order_id=ORDER_ID, amount=101)
    assert isinstance(answer(wanted, payment(PaymentStatus.CAPTURED)), IdempotencyMismatch)


@pytest.mark.parametrize("made_for", ["ann", None])
@pytest.mark.parametrize("asked_for", ["ann", "bob", "Ann", None])
def test_another_user_is_a_mistake(made_for: str | None, asked_for: str | None) -> None:
    """A payment is asked for again by whom it was made for; whoever does not say who he is means the same one."""
    wanted = CreatePayment(order_id=ORDER_ID, amount=100, user_id=asked_for)
    outcome = answer(wanted, payment(PaymentStatus.CAPTURED, user_id=made_for))
    is_refused = isinstance(outcome, IdempotencyMismatch)
    assert is_refused == (made_for is not None and asked_for not in (None, made_for))
