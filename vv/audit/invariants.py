"""The invariants of stock and money: each is a function that takes facts and returns what is wrong with them, or None.

A violation is reported under the function's name; ``docs/audit.md`` explains each in a line.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from common.contracts.inventory import LedgerKind
from common.contracts.orders import FINAL, OrderStatus
from common.contracts.payments import PaymentStatus
from order_service import domain as orders
from payment_service import domain as payments
from vv.audit import formatting
from vv.audit.facts import GatewayFacts, Lifecycle, OrderFacts, OrphanFacts, PaymentFacts, RequestFacts, StockFacts

CHARGED = {PaymentStatus.CAPTURED, PaymentStatus.REFUNDING, PaymentStatus.REFUNDED}
UNKNOWN = {PaymentStatus.PENDING, PaymentStatus.CANCELLING}
BOUGHT = {OrderStatus.PAID, OrderStatus.COMPLETED}
UNDONE = {OrderStatus.FAILED, OrderStatus.CANCELLED}
# The reason of a payment that was given up because the gateway did not know its charge.
GATEWAY_FAILED = "gateway_failed"
# No sensible setting makes a lease longer than this; work that has a longer one is as good as forgotten.
LEASE_AHEAD_MAX_S = 86_400

Invariant = Callable[[Any], str | None]


def stock_is_never_negative(sku: StockFacts) -> str | None:
    if sku.quantity < 0 or sku.lowest < 0:
        return f"stock is {sku.quantity}, and was {sku.lowest} at its lowest"
    return None


def ledger_sums_up_to_stock(sku: StockFacts) -> str | None:
    if sku.ledger_sum != sku.quantity:
        return f"the ledger sums up to {sku.ledger_sum}, the stock is {sku.quantity}"
    return None


def ledger_rows_say_the_stock_after_them(sku: StockFacts) -> str | None:
    return f"{sku.unlike} ledger rows do not; first {sku.first_unlike}" if sku.unlike else None


def stock_begins_with_its_creation(sku: StockFacts) -> str | None:
    if sku.creations != 1:
        return f"{sku.creations} creation rows in the ledger"
    return None if sku.first_kind == LedgerKind.CREATE else f"the ledger begins with a {sku.first_kind}"


def orders_have_lines(order: OrderFacts) -> str | None:
    return None if order.lines else f"is {order.status} and has no lines"


def completed_orders_hold_exactly_their_lines(order: OrderFacts) -> str | None:
    if order.status in BOUGHT and order.taken != order.lines:
        return f"holds {formatting.stock(order.taken)}; its lines are {formatting.stock(order.lines)}"
    return None


def unfinished_orders_hold_all_of_their_lines_or_nothing(order: OrderFacts) -> str | None:
    if order.status in FINAL | BOUGHT or order.taken == order.lines:
        return None
    if not order.taken and order.status != OrderStatus.INVENTORY_RESERVED:
        return None
    return f"is {order.status} and holds {formatting.stock(order.taken)}; its lines are {formatting.stock(order.lines)}"


def failed_and_cancelled_orders_hold_no_stock(order: OrderFacts) -> str | None:
    if order.status in UNDONE and order.taken:
        return f"is {order.status} and still holds {formatting.stock(order.taken)}"
    return None


def completed_orders_are_charged_the_right_amount(order: OrderFacts) -> str | None:
    if order.status not in BOUGHT:
        return None
    payment = order.payment
    if payment is None or payment.status not in CHARGED:
        return f"is {order.status} and its payment is {payment.status if payment else 'missing'}"
    if (payment.amount, payment.currency) != (order.total_amount, order.currency):
        return f"costs {order.total_amount} {order.currency}, charged were {payment.amount} {payment.currency}"
    return None


def completed_orders_are_paid_by_their_buyer(order: OrderFacts) -> str | None:
    payment = order.payment
    # Payments made by earlier versions have no user.
    if order.status not in BOUGHT or payment is None or payment.user_id in (None, order.user_id):
        return None
    return f"is of {order.user_id}, its payment of {payment.user_id}"


def charged_orders_are_completed_or_refunded(order: OrderFacts) -> str | None:
    payment = order.payment
    if order.status not in UNDONE or payment is None:
        return None
    if payment.status == PaymentStatus.PENDING:
        return f"is {order.status}, and its payment is pending: it may be charged yet"
    if payment.status in CHARGED and payment.refunded_amount != payment.amount:
        return f"is {order.status}, and {payment.amount - payment.refunded_amount} were not refunded"
    return None


def order_timelines_are_paths_of_the_state_machine(order: OrderFacts) -> str | None:
    return _why_not_a_path(order, OrderStatus.CREATED, orders.TRANSITIONS)


def failed_orders_know_their_answer(order: OrderFacts) -> str | None:
    if order.status == OrderStatus.FAILED and not order.has_problem:
        return "is failed, and no event tells what to answer to a repeated request"
    return None


def unfinished_orders_have_a_lease(order: OrderFacts) -> str | None:
    return _wrong_lease(order, order.status not in FINAL)


def unfinished_orders_are_taken_up(order: OrderFacts) -> str | None:
    return _overdue(order)


def an_idempotency_key_makes_one_order(order: OrderFacts) -> str | None:
    return f"has the user and the idempotency key of {formatting.listed(order.twins)}" if order.twins else None


def rollbacks_give_back_what_was_taken(request: RequestFacts) -> str | None:
    if request.given_back and request.given_back != request.taken:
        return f"took {formatting.stock(request.taken)}, and {formatting.stock(request.given_back)} was given back"
    return None


def orders_take_stock_under_one_key(request: RequestFacts) -> str | None:
    if request.order_exists and request.request_id != f"{request.order_id}:deduct" and request.held:
        held = formatting.stock(request.held)
        return f"holds {held} for the order {request.order_id}, which takes its stock under another request id"
    return None


def stock_is_taken_for_orders_that_exist(request: RequestFacts) -> str | None:
    if not request.order_exists and request.request_id == f"{request.order_id}:deduct" and request.held:
        return f"holds {formatting.stock(request.held)} for an order, and there is no such order"
    return None


def payment_timelines_are_paths_of_the_state_machine(payment: PaymentFacts) -> str | None:
    began_pending = payment.events[:1] == [(1, PaymentStatus.PENDING)]
    first = PaymentStatus.PENDING if began_pending else PaymentStatus.VOIDED
    return _why_not_a_path(payment, first, payments.TRANSITIONS)


def unfinished_payments_have_a_lease(payment: PaymentFacts) -> str | None:
    return _wrong_lease(payment, payment.status in payments.OUTSTANDING)


def unfinished_payments_are_taken_up(payment: PaymentFacts) -> str | None:
    return _overdue(payment)


def refunds_never_exceed_the_charge(payment: PaymentFacts) -> str | None:
    refunded = sum(payment.refunds.values())
    charged = payment.amount if payment.status in CHARGED else 0
    if refunded != payment.refunded_amount or refunded > charged:
        return f"{refunded} in refund rows, {payment.refunded_amount} noted, {charged} charged"
    return None


def settled_payments_owe_nothing(payment: PaymentFacts) -> str | None:
    if payment.status == PaymentStatus.REFUNDED and payment.refunded_amount != payment.amount:
        return f"is refunded, and {payment.amount - payment.refunded_amount} of it were not"
    if payment.status not in payments.OUTSTANDING and payment.open_refunds:
        return f"is {payment.status}, and nobody confirmed the refunds number {formatting.listed(payment.open_refunds)}"
    return None


def nobody_is_charged_twice(payment: PaymentFacts) -> str | None:
    charges = [charge.amount for charge in payment.gateway_charges]
    return f"the gateway charged it {len(charges)} times: {formatting.listed(charges)}" if len(charges) > 1 else None


def the_gateway_charged_what_we_captured(payment: PaymentFacts) -> str | None:
    wanted = [(payment.charge_key, payment.amount, payment.currency)]
    charges = [(charge.key, charge.amount, charge.currency) for charge in payment.gateway_charges]
    ours = wanted if payment.status in CHARGED else []
    may_be_ours = payment.status in UNKNOWN and charges == wanted
    if charges == ours or may_be_ours or len(charges) > 1:
        return None
    return f"we say {payment.status} of {formatting.sums(ours)}; the gateway charged {formatting.sums(charges)}"


def the_gateway_refunded_what_we_did(payment: PaymentFacts) -> str | None:
    ours = {payment.refund_key(n): (amount, payment.currency) for n, amount in payment.refunds.items()}
    theirs = {refund.key: (refund.amount, refund.currency) for refund in payment.gateway_refunds}
    under_way = {payment.refund_key(n) for n in payment.open_refunds} - theirs.keys()
    if payment.status == PaymentStatus.REFUNDING:
        ours = {key: refund for key, refund in ours.items() if key not in under_way}
    if ours == theirs:
        return None
    return f"we refunded {_refunds(ours)}; the gateway {_refunds(theirs)}"


def charges_that_were_given_up_are_cancelled(payment: PaymentFacts) -> str | None:
    # A payment whose first event is voided was never sent to the gateway, and never will be.
    is_voided = payment.status == PaymentStatus.VOIDED and len(payment.events) > 1
    is_given_up = payment.status == PaymentStatus.DECLINED and payment.reason == GATEWAY_FAILED
    if (is_voided or is_given_up) and not payment.is_cancelled_at_the_gateway and not payment.gateway_charges:
        return f"is {payment.status}, and the gateway would still charge it"
    return None


def gateway_entries_belong_to_a_payment(facts: GatewayFacts) -> str | None:
    entry = facts.entry
    if facts.has_payment and entry.key.startswith(f"{entry.order_id}:"):
        return None
    return f"the gateway has a {entry.kind} of {entry.amount} {entry.currency}, and no payment belongs to it"


def rows_belong_to_something(orphan: OrphanFacts) -> str | None:
    return f"{orphan.table} has rows of {orphan.owner}, which does not exist"


def orders_are_final(order: OrderFacts) -> str | None:
    return None if order.status in FINAL else f"is still {order.status}"


def payments_are_settled(payment: PaymentFacts) -> str | None:
    return f"is still {payment.status}" if payment.status in payments.OUTSTANDING else None


STOCK_INVARIANTS: tuple[Invariant, ...] = (
    stock_is_never_negative,
    ledger_sums_up_to_stock,
    ledger_rows_say_the_stock_after_them,
    stock_begins_with_its_creation,
)
ORDER_INVARIANTS: tuple[Invariant, ...] = (
    orders_have_lines,
    completed_orders_hold_exactly_their_lines,
    unfinished_orders_hold_all_of_their_lines_or_nothing,
    failed_and_cancelled_orders_hold_no_stock,
    completed_orders_are_charged_the_right_amount,
    completed_orders_are_paid_by_their_buyer,
    charged_orders_are_completed_or_refunded,
    order_timelines_are_paths_of_the_state_machine,
    failed_orders_know_their_answer,
    unfinished_orders_have_a_lease,
    unfinished_orders_are_taken_up,
    an_idempotency_key_makes_one_order,
)
REQUEST_INVARIANTS: tuple[Invariant, ...] = (
    rollbacks_give_back_what_was_taken,
    orders_take_stock_under_one_key,
    stock_is_taken_for_orders_that_exist,
)
PAYMENT_INVARIANTS: tuple[Invariant, ...] = (
    payment_timelines_are_paths_of_the_state_machine,
    unfinished_payments_have_a_lease,
    unfinished_payments_are_taken_up,
    refunds_never_exceed_the_charge,
    settled_payments_owe_nothing,
    nobody_is_charged_twice,
    the_gateway_charged_what_we_captured,
    the_gateway_refunded_what_we_did,
    charges_that_were_given_up_are_cancelled,
)
GATEWAY_INVARIANTS: tuple[Invariant, ...] = (gateway_entries_belong_to_a_payment,)
ORPHAN_INVARIANTS: tuple[Invariant, ...] = (rows_belong_to_something,)


def _refunds(refunds: Mapping[str, tuple[int, str]]) -> str:
    return formatting.sums((key, amount, currency) for key, (amount, currency) in refunds.items())


def _why_not_a_path(facts: Lifecycle, first: str, transitions: Mapping[Any, Any]) -> str | None:
    statuses = [status for _, status in facts.events]
    if [seq for seq, _ in facts.events] != list(range(1, len(statuses) + 1)):
        return f"the timeline has gaps: {formatting.listed(seq for seq, _ in facts.events)}"
    if not statuses or statuses[0] != first or statuses[-1] != facts.status:
        return f"the timeline is {' -> '.join(statuses) or 'empty'}, the present status {facts.status}"
    for before, after in pairwise(statuses):
        if after not in transitions.get(before, ()):
            return f"the timeline has the step {before} -> {after}, which does not exist"
    return None if facts.last_seq == len(statuses) else f"the timeline ends with {len(statuses)}, not {facts.last_seq}"


def _wrong_lease(facts: Lifecycle, is_unfinished: bool) -> str | None:
    if is_unfinished != (facts.lease_s is not None):
        return f"is {facts.status} and has {'no' if is_unfinished else 'a'} lease"
    if facts.lease_s is not None and facts.lease_s > LEASE_AHEAD_MAX_S:
        return f"is {facts.status}, and its lease runs out in {facts.lease_s:.0f} s"
    return None


def _overdue(facts: Lifecycle) -> str | None:
    if not facts.is_overdue or facts.lease_s is None:
        return None
    return f"is {facts.status}, its lease ran out {-facts.lease_s:.0f} s ago, and nobody took it up"
