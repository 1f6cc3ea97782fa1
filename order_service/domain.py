"""The rules of an order, without any I/O: its lifecycle, and what its creator is answered."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from common.context import sampled_trace
from common.contracts.inventory import StockLine
from common.contracts.orders import (
    CreateOrder,
    InvalidTransition,
    Order,
    OrderCancelled,
    OrderEvent,
    OrderLine,
    OrderStatus,
)
from common.contracts.payments import CreatePayment
from common.errors import ServiceError, error_from_problem

TRANSITIONS: dict[OrderStatus, frozenset[OrderStatus]] = {
    OrderStatus.CREATED: frozenset({OrderStatus.INVENTORY_RESERVED, OrderStatus.FAILED, OrderStatus.CANCELLING}),
    OrderStatus.INVENTORY_RESERVED: frozenset({OrderStatus.PAID, OrderStatus.FAILING, OrderStatus.CANCELLING}),
    OrderStatus.PAID: frozenset({OrderStatus.COMPLETED, OrderStatus.CANCELLING}),
    OrderStatus.COMPLETED: frozenset({OrderStatus.CANCELLING}),
    OrderStatus.FAILING: frozenset({OrderStatus.FAILED}),
    OrderStatus.FAILED: frozenset(),
    OrderStatus.CANCELLING: frozenset({OrderStatus.CANCELLED}),
    OrderStatus.CANCELLED: frozenset(),
}

# On the way to completion, as long as nothing goes wrong.
UNDER_WAY = {OrderStatus.CREATED, OrderStatus.INVENTORY_RESERVED, OrderStatus.PAID}

# On the way back, or there.
UNDONE = {OrderStatus.FAILING, OrderStatus.FAILED, OrderStatus.CANCELLING, OrderStatus.CANCELLED}

# What a caller may ask for by PATCH, and the step that it takes.
CALLER_MAY_ASK_FOR = {OrderStatus.CANCELLED: OrderStatus.CANCELLING}


@dataclass(frozen=True)
class NewOrder:
    """An order as it is about to be written; its id is minted before, so that writing it can be repeated."""

    order_id: str
    idempotency_key: str | None
    user_id: str
    wanted: CreateOrder
    lines: Mapping[str, int]
    fingerprint: str
    trace: str | None = field(default_factory=sampled_trace)

    @classmethod
    def of(cls, order_id: str, user_id: str, wanted: CreateOrder, idempotency_key: str | None) -> "NewOrder":
        lines = wanted.quantities
        return cls(order_id, idempotency_key, user_id, wanted, lines, _fingerprint(user_id, wanted, lines))

    def accepted(self, now: datetime) -> "OrderRow":
        """The order as it is once it was written."""
        return OrderRow(
            order_id=self.order_id,
            user_id=self.user_id,
            status=OrderStatus.CREATED,
            total_amount=self.wanted.total_amount,
            currency=self.wanted.currency,
            payment_method=self.wanted.payment_method,
            reason=None,
            fingerprint=self.fingerprint,
            version=1,
            last_seq=1,
            attempts=0,
            created_at=now,
            updated_at=now,
            lines=self.lines,
            trace=self.trace,
        )


@dataclass(frozen=True)
class OrderRow:
    """A row of ``orders``, columns in this order, with its lines, and the trace of the request if that is known."""

    order_id: str
    user_id: str
    status: OrderStatus
    total_amount: int
    currency: str
    payment_method: str
    reason: str | None
    fingerprint: str
    version: int
    last_seq: int
    attempts: int
    created_at: datetime
    updated_at: datetime
    lines: Mapping[str, int] = field(default_factory=dict)
    trace: str | None = None

    @property
    def deduct_key(self) -> str:
        return f"{self.order_id}:deduct"

    @property
    def stock_lines(self) -> list[StockLine]:
        return [StockLine(sku=sku, quantity=quantity) for sku, quantity in self.lines.items()]

    @property
    def charge(self) -> CreatePayment:
        return CreatePayment(
            order_id=self.order_id,
            amount=self.total_amount,
            currency=self.currency,
            payment_method=self.payment_method,
            user_id=self.user_id,
            trace=self.trace,
        )

    @property
    def is_running(self) -> bool:
        """Whether the request that created the order is still at work on it."""
        return self.status in UNDER_WAY and self.attempts == 0

    def to_contract(self) -> Order:
        return Order(
            order_id=self.order_id,
            user_id=self.user_id,
            status=self.status,
            items=[OrderLine(sku=sku, quantity=quantity) for sku, quantity in self.lines.items()],
            total_amount=self.total_amount,
            currency=self.currency,
            payment_method=self.payment_method,
            reason=self.reason,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )


@dataclass(frozen=True)
class EventRow:
    """A row of ``order_events``."""

    seq: int
    status: OrderStatus
    reason: str | None
    problem: str | None
    created_at: datetime

    def to_contract(self) -> OrderEvent:
        return OrderEvent(seq=self.seq, status=self.status, reason=self.reason, created_at=self.created_at)


@dataclass(frozen=True)
class Move:
    """Transitions that were decided on: written together, and only if the order has the version that was read."""

    order: OrderRow
    path: tuple[OrderStatus, ...]
    reason: str | None = None
    problem: str | None = None
    trace: str | None = field(default_factory=sampled_trace)

    def __post_init__(self) -> None:
        before = self.order.status
        for status in self.path:
            assert status in TRANSITIONS[before], f"{before} -> {status}"
            before = status

    @property
    def to(self) -> OrderStatus:
        return self.path[-1]

    @classmethod
    def because_of(cls, error: ServiceError, order: OrderRow, *path: OrderStatus) -> "Move":
        return cls(order, path, error.code, json.dumps(error.to_problem()))

    @property
    def events(self) -> list[tuple[int, OrderStatus, str | None, str | None]]:
        """The seq, status, reason and problem of each transition; reason and problem belong to the last."""
        *between, last = enumerate(self.path, start=self.order.last_seq + 1)
        return [*((seq, status, None, None) for seq, status in between), (*last, self.reason, self.problem)]

    @property
    def key(self) -> str:
        return self.order.order_id

    @property
    def version(self) -> int:
        """The one that was read."""
        return self.order.version

    def led_to(self, order: OrderRow) -> bool:
        """Whether the order is as this move leaves it. No other one has the same version, status and timeline."""
        taken = self.taken(order.updated_at)
        return order == replace(taken, lines=order.lines, attempts=order.attempts, trace=order.trace)

    def taken(self, now: datetime) -> OrderRow:
        """The order as it is once the move was written."""
        return replace(
            self.order,
            status=self.to,
            reason=self.reason,
            version=self.order.version + 1,
            last_seq=self.order.last_seq + len(self.path),
            updated_at=now,
        )


def cancellation(order: OrderRow, asked: str) -> Move | None:
    """The step by which a caller's PATCH begins, or ``None`` when the order is on its way there.

    Raises InvalidTransition.
    """
    if asked == OrderStatus.CANCELLED and order.status in (OrderStatus.CANCELLING, OrderStatus.CANCELLED):
        return None
    allowed = {str(to): step for to, step in CALLER_MAY_ASK_FOR.items() if step in TRANSITIONS[order.status]}
    if asked not in allowed:
        raise InvalidTransition(
            f"An order that is {order.status} cannot be set to {asked[:64]!r}; "
            + (f"allowed: {', '.join(allowed)}." if allowed else "nothing can be asked of it any more."),
            order_id=order.order_id,
            status_now=order.status,
            allowed=list(allowed),
        )
    return Move(order, (allowed[asked],), "cancelled_by_caller")


def may_have_failed(order: OrderRow) -> bool:
    """Whether only the timeline tells if the order's creator is answered with an error."""
    return order.status in UNDONE


def failure(order: OrderRow, events: Iterable[EventRow]) -> ServiceError | None:
    """The error that the creator of a finished order is answered, now and on every replay; none if it succeeded."""
    if order.status in (OrderStatus.FAILING, OrderStatus.FAILED):
        problem = next((event.problem for event in events if event.problem is not None), None)
        error = error_from_problem(json.loads(problem)) if problem else OrderCancelled()
        error.request_id = None
        error.extra["order_id"] = order.order_id
        return error
    if order.status in (OrderStatus.CANCELLING, OrderStatus.CANCELLED):
        if any(event.status is OrderStatus.COMPLETED for event in events):
            return None
        return OrderCancelled("The order was cancelled before it was completed.", order_id=order.order_id)
    return None


def _fingerprint(user_id: str, wanted: CreateOrder, lines: Mapping[str, int]) -> str:
    """128 bits that two requests share only if they order the same."""
    same = (user_id, wanted.total_amount, wanted.currency, wanted.payment_method, *lines.items())
    return hashlib.blake2b(repr(same).encode(), digest_size=16).hexdigest()
