"""The audit: every promise about stock and money, checked in the books of the three databases.

Each invariant is a function below that gets the facts about one order, SKU or payment and returns what is wrong with
them. Auditing only reads. It may run while orders are being placed: what looks wrong is looked at again after a
moment, and reported only if it still does.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from common.contracts.orders import OrderStatus
from common.contracts.payments import PaymentStatus
from order_service import domain as orders
from payment_service import domain as payments
from vv.audit_facts import Books, OrderFacts, PaymentFacts, StockFacts

CHARGED = {PaymentStatus.CAPTURED, PaymentStatus.REFUNDING, PaymentStatus.REFUNDED}
_SECOND_LOOK_AFTER_S = 2.0

Invariant = Callable[[Any], str | None]


@dataclass(frozen=True)
class Violation:
    """An invariant that does not hold: its name, the SKU or order, what is wrong, and the rows that show it."""

    invariant: str
    subject: str
    problem: str
    rows: str


@dataclass
class Report:
    """What was looked at, and what was found."""

    invariants: list[str]
    skus: int = 0
    orders: int = 0
    payments: int = 0
    violations: list[Violation] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.violations


def stock_is_never_negative(sku: StockFacts) -> str | None:
    if sku.quantity < 0 or (sku.lowest or 0) < 0:
        return f"stock is {sku.quantity}, and was {sku.lowest} at its lowest"
    return None


def ledger_sums_up_to_stock(sku: StockFacts) -> str | None:
    if sku.ledger_sum != sku.quantity:
        return f"the ledger sums up to {sku.ledger_sum}, the stock is {sku.quantity}"
    return None


def stock_begins_with_its_creation(sku: StockFacts) -> str | None:
    return None if sku.creations == 1 else f"{sku.creations} creation rows in the ledger"


def completed_orders_hold_exactly_their_lines(order: OrderFacts) -> str | None:
    if order.status in (OrderStatus.COMPLETED, OrderStatus.PAID) and order.taken != order.lines:
        return f"holds {order.taken}, its lines are {order.lines}"
    return None


def failed_and_cancelled_orders_hold_no_stock(order: OrderFacts) -> str | None:
    if order.status in (OrderStatus.FAILED, OrderStatus.CANCELLED) and order.taken:
        return f"is {order.status} and still holds {order.taken}"
    return None


def completed_orders_are_charged_the_right_amount(order: OrderFacts) -> str | None:
    if order.status not in (OrderStatus.COMPLETED, OrderStatus.PAID):
        return None
    payment = order.payment
    if payment is None or payment.status not in CHARGED:
        return f"is {order.status} and its payment is {payment.status if payment else 'missing'}"
    if (payment.amount, payment.currency) != (order.total_amount, order.currency):
        return f"costs {order.total_amount} {order.currency}, charged were {payment.amount} {payment.currency}"
    return None


def charged_orders_are_completed_or_refunded(order: OrderFacts) -> str | None:
    payment = order.payment
    if order.status not in (OrderStatus.FAILED, OrderStatus.CANCELLED) or payment is None:
        return None
    if payment.status in CHARGED and payment.refunded_amount != payment.amount:
        return f"is {order.status}, and {payment.amount - payment.refunded_amount} were not refunded"
    return None


def order_timelines_are_paths_of_the_state_machine(order: OrderFacts) -> str | None:
    return _why_not_a_path(order.events, OrderStatus.CREATED, order.status, orders.TRANSITIONS)


def unfinished_orders_have_a_lease(order: OrderFacts) -> str | None:
    if (order.status in orders.FINAL) == order.has_lease:
        return f"is {order.status} and has {'a' if order.has_lease else 'no'} lease"
    return None


def payment_timelines_are_paths_of_the_state_machine(payment: PaymentFacts) -> str | None:
    first = PaymentStatus.PENDING if payment.events[:1] == [(1, PaymentStatus.PENDING)] else PaymentStatus.VOIDED
    return _why_not_a_path(payment.events, first, payment.status, payments.TRANSITIONS)


def refunds_never_exceed_the_charge(payment: PaymentFacts) -> str | None:
    refunded = sum(payment.refunds.values())
    if refunded != payment.refunded_amount or refunded > payment.amount:
        return f"{refunded} in refund rows, {payment.refunded_amount} noted, {payment.amount} charged"
    return None


def nobody_is_charged_twice(payment: PaymentFacts) -> str | None:
    charges = payment.gateway_charges
    return f"the gateway charged it {len(charges)} times: {charges}" if len(charges) > 1 else None


def the_gateway_charged_what_we_captured(payment: PaymentFacts) -> str | None:
    if payment.status in (PaymentStatus.PENDING, PaymentStatus.CANCELLING):
        return None
    captured = [payment.amount] if payment.status in CHARGED else []
    if captured != payment.gateway_charges:
        return f"we say {payment.status} of {captured}, the gateway says {payment.gateway_charges}"
    return None


def the_gateway_refunded_what_we_did(payment: PaymentFacts) -> str | None:
    if payment.status is PaymentStatus.REFUNDING:
        return None
    if payment.refunds != payment.gateway_refunds:
        return f"we refunded {payment.refunds}, the gateway {payment.gateway_refunds}"
    return None


def gateway_entries_belong_to_a_payment(entry: str) -> str:
    return f"the gateway has {entry}, and no payment belongs to it"


STOCK_INVARIANTS: tuple[Invariant, ...] = (
    stock_is_never_negative,
    ledger_sums_up_to_stock,
    stock_begins_with_its_creation,
)
ORDER_INVARIANTS: tuple[Invariant, ...] = (
    completed_orders_hold_exactly_their_lines,
    failed_and_cancelled_orders_hold_no_stock,
    completed_orders_are_charged_the_right_amount,
    charged_orders_are_completed_or_refunded,
    order_timelines_are_paths_of_the_state_machine,
    unfinished_orders_have_a_lease,
)
PAYMENT_INVARIANTS: tuple[Invariant, ...] = (
    payment_timelines_are_paths_of_the_state_machine,
    refunds_never_exceed_the_charge,
    nobody_is_charged_twice,
    the_gateway_charged_what_we_captured,
    the_gateway_refunded_what_we_did,
)
NAMES = [
    invariant.__name__
    for invariant in (
        *(*STOCK_INVARIANTS, *ORDER_INVARIANTS),
        *(*PAYMENT_INVARIANTS, gateway_entries_belong_to_a_payment),
    )
]


async def audit(books: Books, progress: Callable[[int], None] = lambda _: None) -> Report:
    """Check every invariant; ``progress`` is told how many more facts were looked at.

    Raises DatabaseUnavailable.
    """
    report = await _look(books, progress)
    if not report.is_clean:
        await asyncio.sleep(_SECOND_LOOK_AFTER_S)
        suspects = {(violation.invariant, violation.subject) for violation in report.violations}
        report = await _look(books, lambda _: None)
        report.violations = [one for one in report.violations if (one.invariant, one.subject) in suspects]
    return report


async def _look(books: Books, progress: Callable[[int], None]) -> Report:
    report = Report(invariants=NAMES)
    # Orders before stock and money: what an order claims to hold was taken before it said so.
    async for orders_page in _told(books.orders(), progress):
        report.orders += len(orders_page)
        report.violations += _violations(orders_page, ORDER_INVARIANTS)
    async for payments_page in _told(books.payments(), progress):
        report.payments += len(payments_page)
        report.violations += _violations(payments_page, PAYMENT_INVARIANTS)
    async for stock_page in _told(books.stock(), progress):
        report.skus += len(stock_page)
        report.violations += _violations(stock_page, STOCK_INVARIANTS)
    for entry in await books.unowned_gateway_entries():
        name = gateway_entries_belong_to_a_payment.__name__
        report.violations.append(Violation(name, entry, gateway_entries_belong_to_a_payment(entry), entry))
    return report


async def _told(pages: AsyncIterator[list[Any]], progress: Callable[[int], None]) -> AsyncIterator[list[Any]]:
    async for page in pages:
        yield page
        progress(len(page))


def _violations(facts: Iterable[Any], invariants: Iterable[Invariant]) -> list[Violation]:
    return [
        Violation(invariant.__name__, fact.subject, problem, str(fact))
        for fact in facts
        for invariant in invariants
        if (problem := invariant(fact)) is not None
    ]


def _why_not_a_path(events: list[tuple[int, Any]], first: Any, last: Any, transitions: Any) -> str | None:
    statuses = [status for _, status in events]
    if [seq for seq, _ in events] != list(range(1, len(events) + 1)):
        return f"the timeline has gaps: {[seq for seq, _ in events]}"
    if not statuses or statuses[0] != first or statuses[-1] != last:
        return f"the timeline is {statuses}, the present status {last}"
    for before, after in pairwise(statuses):
        if after not in transitions[before]:
            return f"the timeline has the step {before} -> {after}, which does not exist"
    return None
