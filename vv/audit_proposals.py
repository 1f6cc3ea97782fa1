"""What is proposed for each invariant that does not hold: a sentence, and a change where one is safe."""

from collections.abc import Callable, Mapping
from typing import Any

from vv import audit_invariants as broken
from vv import audit_mending as mending
from vv.audit import Violation
from vv.audit_changes import Proposal
from vv.audit_invariants import Invariant


def propose(violation: Violation) -> Proposal:
    """What to do about it."""
    return PROPOSALS[violation.invariant](violation.facts)


def _advice(sentence: str) -> Callable[[Any], Proposal]:
    return lambda _: Proposal(sentence)


_BY_INVARIANT: Mapping[Invariant, Callable[[Any], Proposal]] = {
    broken.stock_is_never_negative: _advice(
        "More was sold than there was: see which orders came last (vv stock ledger), count the shelf, and add stock "
        "or cancel orders."
    ),
    broken.ledger_sums_up_to_stock: mending.ledger_drift,
    broken.ledger_rows_say_the_stock_after_them: mending.odd_ledger_rows,
    broken.stock_begins_with_its_creation: _advice("Look at the first rows of the ledger; they are never made up."),
    broken.orders_have_lines: _advice("What was ordered is lost; ask the buyer, or restore the rows of the order."),
    broken.completed_orders_hold_exactly_their_lines: _advice(
        "See what was taken for it (vv stock ledger), then cancel the order (vv order cancel) or set the stock right."
    ),
    broken.unfinished_orders_hold_all_of_their_lines_or_nothing: _advice(
        "See what was taken under its request id; cancelling the order (vv order cancel) gives all of that back."
    ),
    broken.failed_and_cancelled_orders_hold_no_stock: mending.kept_stock,
    broken.completed_orders_are_charged_the_right_amount: _advice(
        "Compare the order with its payment (vv order get, vv payment get) and decide: refund the difference "
        "(vv payment refund), charge the buyer anew, or cancel the order (vv order cancel)."
    ),
    broken.completed_orders_are_paid_by_their_buyer: _advice(
        "Find out who bought: the buyer does not see his payment (vv payment get), and somebody else may."
    ),
    broken.charged_orders_are_completed_or_refunded: mending.kept_money,
    broken.order_timelines_are_paths_of_the_state_machine: mending.order_timeline,
    broken.failed_orders_know_their_answer: _advice(
        "A repeated request is answered order_cancelled; why it failed is in its reason."
    ),
    broken.unfinished_orders_have_a_lease: mending.order_lease,
    broken.unfinished_orders_are_taken_up: mending.order_lease,
    broken.an_idempotency_key_makes_one_order: _advice(
        "See that the unique key once_per_idempotency_key is in place; cancel those that the buyer does not want."
    ),
    broken.rollbacks_give_back_what_was_taken: _advice(
        "Look at the ledger rows of the request; set the stock right with vv stock add once you know what is true."
    ),
    broken.orders_take_stock_under_one_key: mending.foreign_request,
    broken.stock_is_taken_for_orders_that_exist: mending.request_of_no_order,
    broken.payment_timelines_are_paths_of_the_state_machine: mending.payment_timeline,
    broken.unfinished_payments_have_a_lease: mending.payment_lease,
    broken.unfinished_payments_are_taken_up: mending.payment_lease,
    broken.refunds_never_exceed_the_charge: mending.refunded_amount,
    broken.settled_payments_owe_nothing: mending.open_refunds,
    broken.nobody_is_charged_twice: _advice(
        "Refund the charge that is not under our key <order id>:charge, at the gateway itself."
    ),
    broken.the_gateway_charged_what_we_captured: _advice(
        "Look the charge up at the gateway, which is right about money: refund there what we do not know of; what it "
        "does not know of nobody has paid."
    ),
    broken.charges_that_were_given_up_are_cancelled: _advice(
        "Cancel the key <order id>:charge at the gateway, so that a charge which is still on its way is refused."
    ),
    broken.the_gateway_refunded_what_we_did: _advice(
        "See what the gateway refunded; have it make under our keys what is missing, and write down what is not ours."
    ),
    broken.gateway_entries_belong_to_a_payment: _advice(
        "Find out at the gateway whose money it is; it is either another installation's, or to be refunded there."
    ),
    broken.rows_belong_to_something: _advice("Restore what they belong to from a backup, or take them away by hand."),
    broken.orders_are_final: mending.order_lease,
    broken.payments_are_settled: mending.payment_lease,
}
PROPOSALS = {invariant.__name__: proposal for invariant, proposal in _BY_INVARIANT.items()}
