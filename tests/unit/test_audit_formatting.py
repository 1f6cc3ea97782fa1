"""The rows of the audit, as people read them."""

from common.contracts.orders import OrderStatus
from vv.audit.facts import GatewayEntry, GatewayFacts, OrderFacts, PaymentFacts
from vv.audit.formatting import listed, row, stock, sums
from vv.audit.invariants import (
    completed_orders_hold_exactly_their_lines,
    order_timelines_are_paths_of_the_state_machine,
    the_gateway_charged_what_we_captured,
    the_gateway_refunded_what_we_did,
)
from vv.audit.proposals import Sql


def payment(**changes: object) -> PaymentFacts:
    facts = PaymentFacts(
        "o-1", "captured", None, "USD", 3, 2, None, False, 700, 0, None, events=[(1, "pending"), (2, "captured")]
    )
    for name, value in changes.items():
        setattr(facts, name, value)
    return facts


def order(**changes: object) -> OrderFacts:
    facts = OrderFacts("o-1", "completed", None, "USD", 3, 2, None, False, 700, "ann", events=[(1, "created")])
    for name, value in changes.items():
        setattr(facts, name, value)
    return facts


def test_what_there_may_be_none_of() -> None:
    """Nothing is a word, and no pair of brackets."""
    assert (stock({}), sums([]), listed([])) == ("nothing", "nothing", "none")


def test_each_field_of_a_row() -> None:
    """By its name; what there is none of is a dash, and what was charged can be told from its key."""
    charge = GatewayEntry("o-1:charge", "charge", "o-1:charge", 700, "USD")
    assert row(payment(gateway=[charge], refunds={1: 100}, lease_s=-90.0)) == (
        "order_id: o-1; status: captured; reason: -; currency: USD; version: 3; last_seq: 2; lease_s: -90; "
        "is_overdue: no; events: 1 pending, 2 captured; amount: 700; refunded_amount: 0; user_id: -; refunds: 1 = 100; "
        "open_refunds: -; gateway: charge of 700 USD (o-1:charge)"
    )
    assert row(GatewayFacts(charge, has_payment=False)) == "entry: charge of 700 USD (o-1:charge); has_payment: no"


def test_a_row_within_a_row() -> None:
    """The payment of an order stands in brackets."""
    assert "payment: (order_id: o-1; status: captured; " in row(order(payment=payment()))


def test_problems_are_sentences() -> None:
    """Quantities, money and timelines are written as one would say them."""
    holds = completed_orders_hold_exactly_their_lines(order(lines={"MUG-1": 2, "CUP-1": 1}, taken={"MUG-1": 1}))
    assert holds == "holds 1 x MUG-1; its lines are 2 x MUG-1, 1 x CUP-1"
    timeline = order_timelines_are_paths_of_the_state_machine(
        order(events=[(1, OrderStatus.CREATED), (2, OrderStatus.PAID)])
    )
    assert timeline == "the timeline is created -> paid, the present status completed"
    assert the_gateway_charged_what_we_captured(payment()) == (
        "we say captured of 700 USD (o-1:charge); the gateway charged nothing"
    )
    assert the_gateway_refunded_what_we_did(payment(refunds={1: 100})) == (
        "we refunded 100 USD (o-1:refund:1); the gateway nothing"
    )


def test_what_a_statement_is_carried_out_with() -> None:
    """NULL is spelt as in SQL."""
    change = Sql("order", (("UPDATE orders SET lease_until = %s WHERE version = %s", (None, 3)),))
    assert change.lines == ["order: UPDATE orders SET lease_until = %s WHERE version = %s; with NULL, 3"]
