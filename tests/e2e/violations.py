"""For each invariant, ways to violate it: what is planted, and whether the repair that is proposed mends it."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from tests.forger import BOUGHT, Forger

NEVER = "0b4d4a3e-0000-4000-8000-000000000000"


Plant = Callable[[Forger], str]


@dataclass(frozen=True)
class Planted:
    """``plant`` violates ``invariant`` and no other, and gives what is reported as its subject."""

    invariant: str
    plant: Plant
    mends: bool = False

    def __str__(self) -> str:
        return self.plant.__name__


ALL: list[Planted] = []


def violates(invariant: str, *, mends: bool = False) -> Callable[[Plant], Plant]:
    """Note a way to violate an invariant."""

    def note(plant: Plant) -> Plant:
        ALL.append(Planted(invariant, plant, mends))
        return plant

    return note


def let_stock_be_negative(forger: Forger) -> None:
    """Until the books are wiped."""
    for table, constraint in (
        ("inventory", "stock_is_never_negative"),
        ("stock_ledger", "ledger_quantity_is_never_negative"),
    ):
        forger.execute("inventory", f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
        again = f"ALTER TABLE {table} ADD CONSTRAINT {constraint} CHECK (quantity >= 0)"
        forger.afterwards.callback(forger.execute, "inventory", again)


@violates("stock_is_never_negative")
def negative_stock(forger: Forger) -> str:
    let_stock_be_negative(forger)
    forger.stock("negative", 0, left=-1)
    forger.ledger("r", "deduct", "negative", -1, -1)
    return "negative"


@violates("stock_is_never_negative")
def stock_that_was_negative(forger: Forger) -> str:
    """It never shows in the quantity: the rows came in another order than their quantities tell."""
    let_stock_be_negative(forger)
    forger.stock("negative", 0, left=4)
    forger.ledger("r1", "deduct", "negative", -1, -1)
    forger.ledger("r2", "restock", "negative", 5, 4)
    return "negative"


@violates("ledger_sums_up_to_stock", mends=True)
def stock_without_a_ledger_row(forger: Forger) -> str:
    _, sku = forger.completed()
    forger.execute("inventory", "UPDATE inventory SET quantity = quantity + 1 WHERE sku = %s", sku)
    return sku


@violates("ledger_sums_up_to_stock", mends=True)
def ledger_row_without_stock(forger: Forger) -> str:
    _, sku = forger.completed()
    forger.ledger("r", "restock", sku, 3, 12)
    return sku


@violates("ledger_rows_say_the_stock_after_them", mends=True)
def two_decreases_that_saw_the_same_stock(forger: Forger) -> str:
    """What becomes of stock that is read without its lock."""
    _, sku = forger.completed()
    forger.ledger("r", "deduct", sku, -1, 9)
    forger.execute("inventory", "UPDATE inventory SET quantity = 8 WHERE sku = %s", sku)
    return sku


@violates("stock_begins_with_its_creation")
def stock_created_twice(forger: Forger) -> str:
    _, sku = forger.completed()
    forger.ledger("again", "create", sku, 0, 9)
    return sku


@violates("stock_begins_with_its_creation")
def stock_before_its_creation(forger: Forger) -> str:
    forger.execute("inventory", "INSERT INTO inventory (sku, product_id, quantity) VALUES ('late', 'p', 3)")
    forger.ledger("r", "restock", "late", 1, 1)
    forger.ledger("late", "create", "late", 2, 3)
    return "late"


@violates("orders_have_lines")
def order_of_nothing(forger: Forger) -> str:
    order_id, _ = forger.failed()
    forger.execute("order", "DELETE FROM order_lines WHERE order_id = %s", order_id)
    return order_id


@violates("completed_orders_hold_exactly_their_lines")
def order_with_less_than_its_lines(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.execute("order", "UPDATE order_lines SET quantity = 2 WHERE order_id = %s", order_id)
    return order_id


@violates("unfinished_orders_hold_all_of_their_lines_or_nothing")
def order_with_a_part_of_its_lines(forger: Forger) -> str:
    order_id, _ = forger.taken("created")
    forger.execute("order", "INSERT INTO order_lines VALUES (%s, 'other', 1)", order_id)
    return order_id


@violates("unfinished_orders_hold_all_of_their_lines_or_nothing")
def reserved_order_without_stock(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.order(order_id, "none", "created", "inventory_reserved")
    return order_id


@violates("failed_and_cancelled_orders_hold_no_stock", mends=True)
def failed_order_that_keeps_its_stock(forger: Forger) -> str:
    order_id, _ = forger.taken("created", "inventory_reserved", "failing", "failed")
    forger.payment(order_id, "pending", "declined")
    return order_id


@violates("failed_and_cancelled_orders_hold_no_stock")
def failed_order_with_the_stock_of_somebody_else(forger: Forger) -> str:
    order_id, sku = forger.failed()
    forger.execute("inventory", "DELETE FROM stock_ledger WHERE sku = %s AND kind <> 'create'", sku)
    forger.take(f"{order_id}:deduct", sku, None, left=9)
    forger.execute("order", "UPDATE orders SET reason = 'idempotency_mismatch' WHERE order_id = %s", order_id)
    forger.execute("order", "UPDATE order_lines SET quantity = 5 WHERE order_id = %s", order_id)
    return order_id


@violates("completed_orders_are_charged_the_right_amount")
def order_charged_too_little(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.execute("order", "UPDATE orders SET total_amount = 701 WHERE order_id = %s", order_id)
    return order_id


@violates("completed_orders_are_charged_the_right_amount")
def order_that_nobody_paid(forger: Forger) -> str:
    order_id, _ = forger.taken(*BOUGHT)
    return order_id


@violates("completed_orders_are_paid_by_their_buyer")
def order_that_somebody_else_paid(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.execute("payment", "UPDATE payments SET user_id = 'U' WHERE order_id = %s", order_id)
    return order_id


@violates("charged_orders_are_completed_or_refunded", mends=True)
def failed_order_that_is_charged(forger: Forger) -> str:
    order_id, _ = forger.failed()
    forger.payment(order_id, "pending", "captured")
    forger.gateway(order_id, "charge", "charge", 700)
    return order_id


@violates("charged_orders_are_completed_or_refunded", mends=True)
def failed_order_that_is_pending(forger: Forger) -> str:
    order_id, _ = forger.failed()
    forger.payment(order_id, "pending")
    return order_id


@violates("charged_orders_are_completed_or_refunded")
def failed_order_that_is_charged_by_somebody_else(forger: Forger) -> str:
    order_id = failed_order_that_is_pending(forger)
    forger.execute("order", "UPDATE orders SET reason = 'idempotency_mismatch' WHERE order_id = %s", order_id)
    return order_id


@violates("order_timelines_are_paths_of_the_state_machine")
def timeline_with_a_gap(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.execute("order", "DELETE FROM order_events WHERE order_id = %s AND seq = 2", order_id)
    return order_id


@violates("order_timelines_are_paths_of_the_state_machine")
def status_that_is_none(forger: Forger) -> str:
    order_id, _ = forger.failed()
    forger.execute("order", "UPDATE orders SET status = 'shipped', lease_until = NOW(6) WHERE order_id = %s", order_id)
    return order_id


@violates("order_timelines_are_paths_of_the_state_machine", mends=True)
def order_that_lost_count_of_its_events(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.execute("order", "UPDATE orders SET last_seq = 2 WHERE order_id = %s", order_id)
    return order_id


@violates("failed_orders_know_their_answer")
def failed_order_without_a_problem(forger: Forger) -> str:
    order_id, _ = forger.failed()
    forger.execute("order", "UPDATE order_events SET problem = NULL WHERE order_id = %s", order_id)
    return order_id


@violates("unfinished_orders_have_a_lease", mends=True)
def final_order_with_a_lease(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.execute("order", "UPDATE orders SET lease_until = NOW(6) WHERE order_id = %s", order_id)
    return order_id


@violates("unfinished_orders_have_a_lease", mends=True)
def unfinished_order_without_a_lease(forger: Forger) -> str:
    order_id, _ = forger.taken("created")
    forger.execute("order", "UPDATE orders SET lease_until = NULL WHERE order_id = %s", order_id)
    return order_id


@violates("unfinished_orders_have_a_lease", mends=True)
def order_leased_for_years(forger: Forger) -> str:
    order_id, _ = forger.taken("created")
    forger.execute("order", "UPDATE orders SET lease_until = NOW(6) + INTERVAL 2 YEAR WHERE order_id = %s", order_id)
    return order_id


@violates("unfinished_orders_are_taken_up", mends=True)
def order_that_nobody_takes_up(forger: Forger) -> str:
    order_id, _ = forger.taken("created")
    forger.execute("order", "UPDATE orders SET lease_until = NOW(6) - INTERVAL 61 SECOND WHERE order_id = %s", order_id)
    return order_id


@violates("an_idempotency_key_makes_one_order")
def two_orders_with_one_key(forger: Forger) -> str:
    """Both are reported; the other one belongs to another time."""
    forger.execute("order", "ALTER TABLE orders DROP KEY once_per_idempotency_key")
    forger.afterwards.callback(
        forger.execute,
        "order",
        "ALTER TABLE orders ADD UNIQUE KEY once_per_idempotency_key (user_id, idempotency_key)",
    )
    first, second = sorted(forger.completed()[0] for _ in range(2))
    forger.execute("order", "UPDATE orders SET idempotency_key = 'k' WHERE order_id IN (%s, %s)", first, second)
    return f"{first} {second}"


@violates("rollbacks_give_back_what_was_taken")
def rollback_of_more_than_was_taken(forger: Forger) -> str:
    forger.stock("s", 5, left=6)
    forger.ledger("r", "deduct", "s", -1, 4)
    forger.ledger("r", "rollback", "s", 2, 6)
    return "r"


@violates("rollbacks_give_back_what_was_taken")
def rollback_of_nothing(forger: Forger) -> str:
    forger.stock("s", 5, left=6)
    forger.ledger("r", "rollback", "s", 1, 6)
    return "r"


@violates("orders_take_stock_under_one_key", mends=True)
def order_that_takes_stock_twice(forger: Forger) -> str:
    order_id, sku = forger.completed()
    forger.take("other-key", sku, order_id, left=8)
    return "other-key"


@violates("stock_is_taken_for_orders_that_exist", mends=True)
def stock_of_an_order_that_vanished(forger: Forger) -> str:
    forger.stock("s", 5, left=5)
    forger.take(f"{NEVER}:deduct", "s", NEVER, left=4)
    return f"{NEVER}:deduct"


@violates("payment_timelines_are_paths_of_the_state_machine")
def payment_that_jumps(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.execute("payment", "UPDATE payment_events SET status = 'voided' WHERE order_id = %s AND seq = 1", order_id)
    return order_id


@violates("payment_timelines_are_paths_of_the_state_machine", mends=True)
def payment_that_lost_count_of_its_events(forger: Forger) -> str:
    order_id = forger.captured()
    forger.execute("payment", "UPDATE payments SET last_seq = 1 WHERE order_id = %s", order_id)
    return order_id


@violates("unfinished_payments_have_a_lease", mends=True)
def settled_payment_with_a_lease(forger: Forger) -> str:
    order_id = forger.captured()
    forger.execute("payment", "UPDATE payments SET lease_until = NOW(6) WHERE order_id = %s", order_id)
    return order_id


@violates("unfinished_payments_have_a_lease", mends=True)
def pending_payment_without_a_lease(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.payment(order_id, "pending")
    forger.execute("payment", "UPDATE payments SET lease_until = NULL WHERE order_id = %s", order_id)
    return order_id


@violates("unfinished_payments_are_taken_up", mends=True)
def payment_that_nobody_takes_up(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.payment(order_id, "pending")
    forger.execute("payment", "UPDATE payments SET lease_until = NOW(6) - INTERVAL 61 SECOND")
    forger.execute("payment", "UPDATE payments SET lease_until = NULL WHERE order_id <> %s", order_id)
    return order_id


@violates("refunds_never_exceed_the_charge", mends=True)
def refund_that_nobody_noted(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.refund(order_id, 100)
    forger.gateway(order_id, "refund", "refund:1", 100)
    return order_id


@violates("refunds_never_exceed_the_charge")
def refund_of_a_charge_that_was_declined(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.payment(order_id, "pending", "declined", refunded=100)
    forger.refund(order_id, 100)
    forger.gateway(order_id, "refund", "refund:1", 100)
    return order_id


@violates("settled_payments_owe_nothing", mends=True)
def refund_that_was_made_and_not_confirmed(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.payment(order_id, "pending", "captured", "refunding", "captured", refunded=100)
    forger.refund(order_id, 100, done=False)
    forger.gateway(order_id, "charge", "charge", 700)
    forger.gateway(order_id, "refund", "refund:1", 100)
    return order_id


@violates("settled_payments_owe_nothing")
def refunded_payment_of_which_a_part_was(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.payment(order_id, "pending", "captured", "refunding", "refunded", refunded=100)
    forger.refund(order_id, 100)
    forger.gateway(order_id, "charge", "charge", 700)
    forger.gateway(order_id, "refund", "refund:1", 100)
    return order_id


@violates("nobody_is_charged_twice")
def double_charge(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.payment(order_id, "pending")
    forger.gateway(order_id, "charge", "charge", 700)
    forger.gateway(order_id, "charge", "charge:again", 700)
    return order_id


@violates("the_gateway_charged_what_we_captured")
def charge_that_the_gateway_does_not_know(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.execute("payment", "DELETE FROM sandbox_gateway WHERE charge_key = %s", f"{order_id}:charge")
    return order_id


@violates("the_gateway_charged_what_we_captured")
def charge_in_another_currency(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.execute("payment", "UPDATE sandbox_gateway SET currency = 'EUR' WHERE charge_key = %s", f"{order_id}:charge")
    return order_id


@violates("the_gateway_charged_what_we_captured")
def pending_charge_of_another_amount(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.payment(order_id, "pending")
    forger.gateway(order_id, "charge", "charge", 701)
    return order_id


@violates("the_gateway_charged_what_we_captured")
def charge_that_we_gave_up(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.payment(order_id, "pending", "declined")
    forger.gateway(order_id, "charge", "charge", 700)
    return order_id


@violates("the_gateway_refunded_what_we_did")
def refund_that_the_gateway_does_not_know(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.refund(order_id, 100)
    forger.execute("payment", "UPDATE payments SET refunded_amount = 100 WHERE order_id = %s", order_id)
    return order_id


@violates("the_gateway_refunded_what_we_did")
def refund_under_way_of_another_amount(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.payment(order_id, "pending", "captured", "refunding", refunded=100)
    forger.refund(order_id, 100, done=False)
    forger.gateway(order_id, "charge", "charge", 700)
    forger.gateway(order_id, "refund", "refund:1", 99)
    return order_id


@violates("charges_that_were_given_up_are_cancelled")
def voided_payment_that_may_be_charged_yet(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.payment(order_id, "pending", "cancelling", "voided")
    return order_id


@violates("charges_that_were_given_up_are_cancelled")
def declined_payment_that_may_be_charged_yet(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.payment(order_id, "pending", "declined")
    forger.execute("payment", "UPDATE payments SET reason = 'gateway_failed' WHERE order_id = %s", order_id)
    return order_id


@violates("gateway_entries_belong_to_a_payment")
def charge_of_no_order(forger: Forger) -> str:
    order_id = str(uuid4())
    forger.gateway(order_id, "charge", "charge", 700)
    return f"{order_id}:charge"


@violates("gateway_entries_belong_to_a_payment")
def charge_under_the_key_of_another_order(forger: Forger) -> str:
    order_id, _ = forger.completed()
    forger.gateway(NEVER, "charge", "charge", 700)
    forger.execute(
        *("payment", "UPDATE sandbox_gateway SET charge_key = %s WHERE gateway_key = %s"),
        *(f"{order_id}:charge", f"{NEVER}:charge"),
    )
    return f"{NEVER}:charge"


@violates("rows_belong_to_something")
def lines_of_no_order(forger: Forger) -> str:
    forger.execute("order", "INSERT INTO order_lines VALUES (%s, 's', 1)", NEVER)
    return f"order_lines {NEVER}"


@violates("rows_belong_to_something")
def events_of_no_order(forger: Forger) -> str:
    forger.execute("order", "INSERT INTO order_events (order_id, seq, status) VALUES (%s, 1, 'created')", NEVER)
    return f"order_events {NEVER}"


@violates("rows_belong_to_something")
def events_of_no_payment(forger: Forger) -> str:
    forger.execute(
        "payment", "INSERT INTO payment_events (order_id, seq, status, amount) VALUES (%s, 1, 'pending', 1)", NEVER
    )
    return f"payment_events {NEVER}"


@violates("rows_belong_to_something")
def refunds_of_no_payment(forger: Forger) -> str:
    forger.refund(NEVER, 1)
    return f"refunds {NEVER}"


@violates("rows_belong_to_something")
def ledger_of_no_sku(forger: Forger) -> str:
    forger.ledger("r", "restock", "gone", 1, 1)
    return "stock_ledger gone"
