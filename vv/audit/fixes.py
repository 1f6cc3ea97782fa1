"""How to fix a violation of each invariant: a change where one is safe, else advice on what to look at.

The source of truth is the append-only ledger for stock, and the gateway for money. Where an operator has to decide, the
proposal has no change.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from common.contracts.inventory import LedgerKind
from common.contracts.orders import FINAL
from common.contracts.payments import PaymentStatus
from order_service import domain as orders
from payment_service import domain as payments
from vv.audit import invariants
from vv.audit.facts import Lifecycle, OrderFacts, PaymentFacts, RequestFacts, StockFacts
from vv.audit.invariants import Invariant
from vv.audit.proposals import RETURN_MONEY, RETURN_STOCK, Call, Proposal, Sql, guarded_update
from vv.audit.run import Violation
from vv.audit.stock_books import CORRECTION

# The reason of an order whose derived key another caller had used: what is under that key is not the order's.
_SOMEBODY_ELSES = "idempotency_mismatch"


def propose(violation: Violation) -> Proposal:
    """What to do about a violation."""
    return PROPOSALS[violation.invariant](violation.facts)


def _return_stock(request_id: str, sentence: str) -> Proposal:
    return Proposal(sentence, Call(RETURN_STOCK, ("request_id", request_id)))


def ledger_drift(sku: StockFacts) -> Proposal:
    drift = sku.ledger_sum - sku.quantity
    if sku.ledger_sum < 0:
        return Proposal("More is gone than there was; count the shelf and add what is missing (vv stock add).")
    # The locked SKU gets no ledger rows meanwhile. Traffic changes the stock and the sum, but not their difference.
    change = (
        "UPDATE inventory SET quantity = quantity + %s, version = version + 1 WHERE sku = %s "
        "AND quantity + %s = (SELECT SUM(delta) FROM stock_ledger WHERE sku = %s)"
    )
    statements = (_locked(sku.sku), (change, (drift, sku.sku, drift, sku.sku)), _correction(sku.sku))
    return Proposal(
        f"Change the stock by {drift:+d}, to what the ledger says, and note the correction in the ledger. "
        "Count the shelf: if the stock was right, add the difference afterwards (vv stock add).",
        Sql("inventory", statements),
    )


def odd_ledger_rows(sku: StockFacts) -> Proposal:
    if sku.ledger_sum != sku.quantity:
        return Proposal("Fix the sum first; that also notes a correction in the ledger.")
    return Proposal(
        "The sum is right, and rows of the ledger never change. Look at who wrote these rows; then note a correction, "
        "after which what is above it is not reported again.",
        Sql("inventory", (_locked(sku.sku), _correction(sku.sku))),
    )


def _locked(sku: str) -> tuple[str, tuple[Any, ...]]:
    return "SELECT sku FROM inventory WHERE sku = %s FOR UPDATE", (sku,)


def _correction(sku: str) -> tuple[str, tuple[Any, ...]]:
    row = (
        "INSERT INTO stock_ledger (request_id, kind, line, sku, delta, quantity) "
        "SELECT CONCAT(%s, UUID()), %s, 1, sku, 0, quantity FROM inventory WHERE sku = %s"
    )
    return row, (CORRECTION, LedgerKind.RESTOCK.value, sku)


def kept_stock(order: OrderFacts) -> Proposal:
    if order.reason == _SOMEBODY_ELSES and order.taken != order.lines:
        return Proposal(
            f"Somebody else took stock under the order's request id {order.deduct_key}; ask whose it is, then give it "
            f"back with {RETURN_STOCK}."
        )
    return _return_stock(order.deduct_key, "Give the stock back, as the order service should have done.")


def kept_money(order: OrderFacts) -> Proposal:
    if order.reason == _SOMEBODY_ELSES:
        return Proposal(f"Somebody else charged under this order's id; ask whose it is, then {RETURN_MONEY}.")
    return Proposal(
        "Return the money through the payment service, which voids the payment or refunds what is left of it.",
        Call(RETURN_MONEY, ("order_id", order.order_id)),
    )


def order_timeline(order: OrderFacts) -> Proposal:
    return _last_seq(order, "order", "orders", "order_events", orders.TRANSITIONS)


def payment_timeline(payment: PaymentFacts) -> Proposal:
    return _last_seq(payment, "payment", "payments", "payment_events", payments.TRANSITIONS)


def _last_seq(facts: Lifecycle, service: str, table: str, events: str, transitions: Mapping[Any, Any]) -> Proposal:
    seqs = [seq for seq, _ in facts.events]
    statuses = [status for _, status in facts.events]
    is_path = all(after in transitions.get(before, ()) for before, after in pairwise(statuses))
    if not seqs or seqs != list(range(1, len(seqs) + 1)) or statuses[-1] != facts.status or not is_path:
        return Proposal(f"Rows of {events} are never made up; look at who wrote to {table} or {events} by hand.")
    return Proposal(
        "The timeline is whole; set the number of its last event, without which the next one cannot be written.",
        guarded_update(service, table, facts, "last_seq = %s", (len(seqs),), "last_seq = %s", (facts.last_seq,)),
    )


def order_lease(order: OrderFacts) -> Proposal:
    return _lease(order, "order", "orders", order.status in FINAL)


def payment_lease(payment: PaymentFacts) -> Proposal:
    return _lease(payment, "payment", "payments", payment.status not in payments.OUTSTANDING)


def _lease(facts: Lifecycle, service: str, table: str, is_final: bool) -> Proposal:
    if is_final:
        change, sentence = "lease_until = NULL", "Nothing is left to be done: take the lease away."
    else:
        change = "lease_until = NOW(6)"
        sentence = f"Let its lease run out now, so that the {service} service's recovery takes it up; see that it runs."
    return Proposal(sentence, guarded_update(service, table, facts, change))


def refunded_amount(payment: PaymentFacts) -> Proposal:
    rows = sum(payment.refunds.values())
    ours = {payment.refund_key(n): amount for n, amount in payment.refunds.items()}
    theirs = {refund.key: refund.amount for refund in payment.gateway_refunds}
    if payment.status != PaymentStatus.CAPTURED or ours != theirs or rows > payment.amount:
        return Proposal("Compare the refunds with what the gateway says about the charge; the gateway is right.")
    return Proposal(
        "The refunds are those of the gateway: set the sum that is noted to theirs.",
        guarded_update(
            *("payment", "payments", payment, "refunded_amount = %s", (rows,)),
            *("refunded_amount = %s", (payment.refunded_amount,)),
        ),
    )


def open_refunds(payment: PaymentFacts) -> Proposal:
    made = {refund.key: (refund.amount, refund.currency) for refund in payment.gateway_refunds}
    wanted = {n: (payment.refunds[n], payment.currency) for n in payment.open_refunds}
    if not wanted or any(made.get(payment.refund_key(n)) != refund for n, refund in wanted.items()):
        return Proposal("Look at what the gateway refunded, and have it refund the rest under our keys.")
    done = "UPDATE refunds SET done = TRUE WHERE order_id = %s AND n = %s AND NOT done"
    return Proposal(
        "The gateway has made these refunds: note them as done.",
        Sql("payment", tuple((done, (payment.order_id, n)) for n in payment.open_refunds)),
    )


def foreign_request(request: RequestFacts) -> Proposal:
    return _return_stock(
        request.request_id, "Give the stock back, unless somebody took it for this order on purpose and needs it."
    )


def request_of_no_order(request: RequestFacts) -> Proposal:
    return _return_stock(
        request.request_id,
        "Give the stock back, unless the order is only missing here (an older backup of the orders, say): then restore "
        f"the order. Look at its payment, too (vv payment get {request.order_id}).",
    )


def _advice(sentence: str) -> Callable[[Any], Proposal]:
    return lambda _: Proposal(sentence)


_BY_INVARIANT: Mapping[Invariant, Callable[[Any], Proposal]] = {
    invariants.stock_is_never_negative: _advice(
        "More was sold than there was: see which orders came last (vv stock ledger), count the shelf, and add stock "
        "or cancel orders."
    ),
    invariants.ledger_sums_up_to_stock: ledger_drift,
    invariants.ledger_rows_say_the_stock_after_them: odd_ledger_rows,
    invariants.stock_begins_with_its_creation: _advice("Look at the first rows of the ledger; they are never made up."),
    invariants.orders_have_lines: _advice("What was ordered is lost; ask the buyer, or restore the rows of the order."),
    invariants.completed_orders_hold_exactly_their_lines: _advice(
        "See what was taken for it (vv stock ledger), then cancel the order (vv order cancel) or set the stock right."
    ),
    invariants.unfinished_orders_hold_all_of_their_lines_or_nothing: _advice(
        "See what was taken under its request id; cancelling the order (vv order cancel) gives all of that back."
    ),
    invariants.failed_and_cancelled_orders_hold_no_stock: kept_stock,
    invariants.completed_orders_are_charged_the_right_amount: _advice(
        "Compare the order with its payment (vv order get, vv payment get) and decide: refund the difference "
        "(vv payment refund), charge the buyer anew, or cancel the order (vv order cancel)."
    ),
    invariants.completed_orders_are_paid_by_their_buyer: _advice(
        "Find out who bought: the buyer does not see the payment (vv payment get), and somebody else may."
    ),
    invariants.charged_orders_are_completed_or_refunded: kept_money,
    invariants.order_timelines_are_paths_of_the_state_machine: order_timeline,
    invariants.failed_orders_know_their_answer: _advice(
        "A repeated request is answered order_cancelled; why it failed is in its reason."
    ),
    invariants.unfinished_orders_have_a_lease: order_lease,
    invariants.unfinished_orders_are_taken_up: order_lease,
    invariants.an_idempotency_key_makes_one_order: _advice(
        "See that the unique key once_per_idempotency_key is in place; cancel those that the buyer does not want."
    ),
    invariants.rollbacks_give_back_what_was_taken: _advice(
        "Look at the ledger rows of the request; set the stock right with vv stock add once you know what is true."
    ),
    invariants.orders_take_stock_under_one_key: foreign_request,
    invariants.stock_is_taken_for_orders_that_exist: request_of_no_order,
    invariants.payment_timelines_are_paths_of_the_state_machine: payment_timeline,
    invariants.unfinished_payments_have_a_lease: payment_lease,
    invariants.unfinished_payments_are_taken_up: payment_lease,
    invariants.refunds_never_exceed_the_charge: refunded_amount,
    invariants.settled_payments_owe_nothing: open_refunds,
    invariants.nobody_is_charged_twice: _advice(
        "Refund the charge that is not under our key <order id>:charge, at the gateway itself."
    ),
    invariants.the_gateway_charged_what_we_captured: _advice(
        "Look the charge up at the gateway, which is right about money: refund there what we do not know of; what it "
        "does not know of nobody has paid."
    ),
    invariants.charges_that_were_given_up_are_cancelled: _advice(
        "Cancel the key <order id>:charge at the gateway, so that a charge which is still on its way is refused."
    ),
    invariants.the_gateway_refunded_what_we_did: _advice(
        "See what the gateway refunded; have it make under our keys what is missing, and write down what is not ours."
    ),
    invariants.gateway_entries_belong_to_a_payment: _advice(
        "Find out at the gateway whose money it is; it is either another installation's, or to be refunded there."
    ),
    invariants.rows_belong_to_something: _advice(
        "Restore what they belong to from a backup, or take them away by hand."
    ),
    invariants.orders_are_final: order_lease,
    invariants.payments_are_settled: payment_lease,
}
PROPOSALS = {invariant.__name__: proposal for invariant, proposal in _BY_INVARIANT.items()}
