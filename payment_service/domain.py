"""The rules of a payment, without any I/O."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from common.context import sampled_trace
from common.contracts.payments import (
    CreatePayment,
    Payment,
    PaymentCancelled,
    PaymentDeclined,
    PaymentStatus,
)
from common.errors import IdempotencyMismatch, ServiceError

TRANSITIONS: dict[PaymentStatus, frozenset[PaymentStatus]] = {
    PaymentStatus.PENDING: frozenset({PaymentStatus.CAPTURED, PaymentStatus.DECLINED, PaymentStatus.CANCELLING}),
    PaymentStatus.CAPTURED: frozenset({PaymentStatus.REFUNDING}),
    PaymentStatus.DECLINED: frozenset(),
    PaymentStatus.CANCELLING: frozenset({PaymentStatus.REFUNDING, PaymentStatus.DECLINED, PaymentStatus.VOIDED}),
    # A second refund may be decided while the first is under way.
    PaymentStatus.REFUNDING: frozenset({PaymentStatus.REFUNDING, PaymentStatus.CAPTURED, PaymentStatus.REFUNDED}),
    PaymentStatus.REFUNDED: frozenset(),
    PaymentStatus.VOIDED: frozenset(),
}

# Somebody must still do something about these.
OUTSTANDING = {PaymentStatus.PENDING, PaymentStatus.CANCELLING, PaymentStatus.REFUNDING}


# Of its column, which is ASCII.
REASON_CHARACTERS_MAX = 64

# The reason of every step that cancels the payment.
ORDER_CANCELLED = "order_cancelled"


@dataclass(frozen=True)
class NewPayment:
    """A payment as it is about to be written; its id is minted before, so that writing it can be repeated."""

    payment_id: str
    wanted: CreatePayment
    trace: str | None = field(default_factory=sampled_trace)

    @property
    def order_id(self) -> str:
        return self.wanted.order_id

    def opened(self, now: datetime) -> "PaymentRow":
        """The payment as it is once it was written."""
        return PaymentRow(
            order_id=self.order_id,
            payment_id=self.payment_id,
            amount=self.wanted.amount,
            currency=self.wanted.currency,
            payment_method=self.wanted.payment_method,
            status=PaymentStatus.PENDING,
            refunded_amount=0,
            reason=None,
            version=1,
            last_seq=1,
            attempts=0,
            times_not_found=0,
            user_id=self.wanted.user_id,
            created_at=now,
            updated_at=now,
        )


@dataclass(frozen=True)
class PaymentRow:
    """A row of ``payments``, columns in this order. ``user_id`` is who buys, if somebody said so; it never changes."""

    order_id: str
    payment_id: str
    amount: int
    currency: str
    payment_method: str
    status: PaymentStatus
    refunded_amount: int
    reason: str | None
    version: int
    last_seq: int
    attempts: int
    times_not_found: int
    user_id: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def charge_key(self) -> str:
        return f"{self.order_id}:charge"

    def refund_key(self, n: int) -> str:
        return f"{self.order_id}:refund:{n}"

    @property
    def refundable(self) -> int:
        return self.amount - self.refunded_amount

    def to_contract(self) -> Payment:
        return Payment.model_validate(self, from_attributes=True)


@dataclass(frozen=True)
class Move:
    """A transition that was decided on: written only if the payment still has the version that was read.

    ``refund`` is an amount newly promised back.
    """

    payment: PaymentRow
    to: PaymentStatus
    reason: str | None = None
    refund: int = 0
    refund_request_id: str | None = None
    trace: str | None = field(default_factory=sampled_trace)

    def __post_init__(self) -> None:
        assert self.to in TRANSITIONS[self.payment.status], f"{self.payment.status} -> {self.to}"

    @property
    def event(self) -> tuple[str, int, PaymentStatus, int, str | None, str | None]:
        """The row that it adds to ``payment_events``."""
        amount = self.refund or self.payment.amount
        return (self.payment.order_id, self.payment.last_seq + 1, self.to, amount, self.reason, self.trace)

    @property
    def key(self) -> str:
        return self.payment.order_id

    @property
    def version(self) -> int:
        """The one that was read."""
        return self.payment.version

    def led_to(self, payment: PaymentRow) -> bool:
        """Whether the payment is as this move leaves it. No other one has the same version, status and timeline."""
        return payment == self.taken(payment.updated_at)

    def taken(self, now: datetime) -> PaymentRow:
        """The payment as it is once the move was written."""
        return replace(
            self.payment,
            status=self.to,
            reason=self.reason,
            refunded_amount=self.payment.refunded_amount + self.refund,
            version=self.payment.version + 1,
            last_seq=self.payment.last_seq + 1,
            attempts=0,
            times_not_found=0,
            updated_at=now,
        )


@dataclass(frozen=True)
class Refund:
    """A row of ``refunds``."""

    n: int
    amount: int


def answer(wanted: CreatePayment, payment: PaymentRow) -> Payment | ServiceError:
    """What a charge of this order is answered, now and whenever it is asked for again."""
    if payment.status in (PaymentStatus.VOIDED, PaymentStatus.CANCELLING) or payment.reason == ORDER_CANCELLED:
        return PaymentCancelled(f"The payment of order {payment.order_id} was cancelled.")
    if not _is_same(wanted, payment):
        return IdempotencyMismatch(
            f"Order {payment.order_id} has a payment with another amount, currency, method or user."
        )
    if payment.status is PaymentStatus.DECLINED:
        return PaymentDeclined(f"The payment was declined: {payment.reason}.", reason=payment.reason)
    return payment.to_contract()


def _is_same(wanted: CreatePayment, payment: PaymentRow) -> bool:
    asked: tuple[Any, ...] = (wanted.amount, wanted.currency, wanted.payment_method)
    if asked != (payment.amount, payment.currency, payment.payment_method):
        return False
    # Payments of earlier versions have no user, and neither have their charges.
    return wanted.user_id == payment.user_id or None in (wanted.user_id, payment.user_id)
