"""What must be true after the faults have stopped, as far as the buyers' log tells; ``vv audit`` checks the rest.

Each check is a function from the evidence to the violations that it finds.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from common.contracts.orders import FINAL, OrderStatus
from order_service.domain import TRANSITIONS
from tests.faults.harness.evidence import Evidence, OrderRecord
from tests.faults.harness.history import Kind, Operation, Outcome, by_subject
from tests.faults.harness.violation import Violation

Problem = tuple[str, str, Iterable[object]]
Check = Callable[[Evidence], Iterator[Problem]]

_CHANGES_LATER = {"status", "reason", "updated_at"}
_EACH_REPLY_HAS_ITS_OWN = {"request_id"}
_NEVER_PAYS = {"tok_declined", "tok_error"}


def accepted_orders_are_there(seen: Evidence) -> Iterator[Problem]:
    """An order that a reply names exists, and is what was asked for."""
    for operation in _orders(seen):
        if operation.order_id is None or operation.kind is Kind.MISUSE:
            continue
        order = seen.orders.get(operation.order_id)
        if order is None:
            yield operation.order_id, "was answered and is not there", [operation]
        elif (wrong := _differences(operation, order)) != []:
            yield operation.order_id, f"is not what was asked for: {', '.join(wrong)}", [operation, order]


def a_key_makes_one_order(seen: Evidence) -> Iterator[Problem]:
    for user, operations in by_subject(seen.operations, Kind.ORDER, Kind.REPEAT).items():
        found = seen.orders_of(user)
        if operations[0].key is not None and len(found) > 1:
            yield user, f"{len(found)} orders have one key", [*operations, *found]


def nobody_orders_by_himself(seen: Evidence) -> Iterator[Problem]:
    users = {operation.subject for operation in _orders(seen)}
    for order in seen.orders.values():
        if order.row["user_id"] not in users:
            yield order.order_id, "is an order that no buyer sent", [order]


def replays_are_identical(seen: Evidence) -> Iterator[Problem]:
    """The same key is answered with the same order, and once decided with the same answer."""
    for user, operations in by_subject(seen.operations, Kind.ORDER, Kind.REPEAT).items():
        named = {one.order_id for one in operations if one.order_id is not None}
        if len(named) > 1:
            yield user, f"is told of {len(named)} orders under one key", operations
        decided = [one for one in operations if one.is_refused or one.status == 201]
        if len({_what_stays(one) for one in decided}) > 1:
            yield user, "is given different answers under one key", decided


def answers_come_true(seen: Evidence) -> Iterator[Problem]:
    """A 201 ends as completed, a refusal as failed; cancelled is only what somebody asked to cancel."""
    cancels = {*by_subject(seen.operations, Kind.CANCEL), *seen.cancelled}
    for operation in _orders(seen):
        order = seen.orders.get(operation.order_id or "")
        if order is None or operation.kind is Kind.MISUSE or operation.outcome is Outcome.UNKNOWN:
            continue
        expected = {OrderStatus.FAILED} if operation.is_refused else {OrderStatus.COMPLETED}
        if operation.status == 202:
            expected = {OrderStatus.COMPLETED, OrderStatus.FAILED}
        if order.order_id in cancels:
            expected |= {OrderStatus.CANCELLED}
        if order.status not in expected:
            yield order.order_id, f"was answered {operation.status} and is {order.status}", [operation, order]


def refusals_have_no_effect(seen: Evidence) -> Iterator[Problem]:
    """Who was refused pays nothing and holds nothing; a key that was misused leaves nothing behind."""
    for operation in _orders(seen):
        if not operation.is_refused or operation.kind is Kind.MISUSE:
            continue
        # Without a key a copy of the request is an order of its own.
        alike = [order for order in seen.orders_of(operation.subject) if operation.key or _names(operation, order)]
        for order in alike:
            if order.status is OrderStatus.COMPLETED or order.kept_money or any(order.held.values()):
                problem = f"was refused, keeps {order.kept_money} of the money and holds {order.held}"
                yield order.order_id, problem, [operation, order]
    for operation in seen.operations:
        if operation.kind is Kind.MISUSE and (operation.is_ok or operation.status not in (0, 422, 500, 503, 504)):
            yield operation.subject, "another order under a used key was not refused with 422", [operation]


def an_order_has_one_payment(seen: Evidence) -> Iterator[Problem]:
    for order_id, payments in seen.payments.items():
        if len(payments) > 1:
            yield order_id, f"has {len(payments)} payments", payments


def stock_is_answered_alike(seen: Evidence) -> Iterator[Problem]:
    """The same request is not accepted once and refused another time, unless it was given back in between."""
    given_back = by_subject(seen.operations, Kind.GIVE_BACK)
    for request_id, operations in by_subject(seen.operations, Kind.TAKE, Kind.RESTOCK, Kind.REFUND).items():
        outcomes = {one.outcome for one in operations}
        if {Outcome.OK, Outcome.REFUSED} <= outcomes and request_id not in given_back:
            yield request_id, "was accepted and refused", operations


def cards_that_never_pay_buy_nothing(seen: Evidence) -> Iterator[Problem]:
    for order in seen.orders.values():
        paid = {OrderStatus.PAID, OrderStatus.COMPLETED} & {event["status"] for event in order.events}
        if order.row["payment_method"] in _NEVER_PAYS and (paid or order.kept_money):
            yield order.order_id, f"was paid for with {order.row['payment_method']}", [order]


def cancellations_come_true(seen: Evidence) -> Iterator[Problem]:
    """A cancellation that was accepted ends as cancelled, one that was refused left an order that failed."""
    for order_id, operations in by_subject(seen.operations, Kind.CANCEL).items():
        order = seen.orders.get(order_id)
        for operation in operations:
            if operation.outcome is Outcome.UNKNOWN:
                continue
            expected = OrderStatus.CANCELLED if operation.is_ok else OrderStatus.FAILED
            if order is None or order.status is not expected:
                yield order_id, f"its cancellation was answered {operation.status}", [operation, order]
            elif operation.status == 200 and order.kept_money:
                yield order_id, f"is cancelled, and {order.kept_money} are kept", [operation, order]


def refunds_happen_once(seen: Evidence) -> Iterator[Problem]:
    for request_id, operations in by_subject(seen.operations, Kind.REFUND).items():
        made = [row["amount"] for row in seen.refunds.get(request_id, ())]
        asked = (operations[0].body or {})["amount"]
        expected = _possible([asked], [], operations)
        if made not in expected:
            yield (
                request_id,
                f"refunds {made}, expected one of {expected}",
                [*operations, *seen.refunds.get(request_id, ())],
            )


def nobody_refunds_by_himself(seen: Evidence) -> Iterator[Problem]:
    asked = by_subject(seen.operations, Kind.REFUND)
    for request_id, refunds in seen.refunds.items():
        if request_id not in asked:
            yield request_id, "is a refund that no buyer asked for", refunds


def direct_changes_of_stock_happen_once(seen: Evidence) -> Iterator[Problem]:
    """A restock, a decrease without an order: once if it was accepted, not at all if it was refused."""
    for request_id, operations in by_subject(seen.operations, Kind.RESTOCK).items():
        body = operations[0].body or {}
        moved, rows = _moved(seen, request_id)
        if moved not in _possible({body["sku"]: body["quantity"]}, {}, operations):
            yield request_id, f"moved {moved}", [*operations, *rows]
    given_back = by_subject(seen.operations, Kind.GIVE_BACK)
    for request_id, operations in by_subject(seen.operations, Kind.TAKE).items():
        moved, rows = _moved(seen, request_id)
        wanted = {line["sku"]: -line["quantity"] for line in (operations[0].body or {})["items"]}
        undone = given_back.get(request_id, [])
        expected = _possible(wanted, {}, operations)
        if any(one.is_ok for one in undone):
            expected = [{}]
        elif undone:
            expected.append({})
        if moved not in expected:
            yield request_id, f"moved {moved}, expected one of {expected}", [*operations, *undone, *rows]


def units_add_up(seen: Evidence) -> Iterator[Problem]:
    """What a SKU began with, and what was put in and sold since, is what is left."""
    changes: Counter[str] = Counter(seen.stocked)
    for kind, sign in ((Kind.RESTOCK, 1), (Kind.TAKE, 1)):
        for request_id in by_subject(seen.operations, kind):
            for sku, delta in _moved(seen, request_id)[0].items():
                changes[sku] += sign * delta
    for order in seen.orders.values():
        if order.status is OrderStatus.COMPLETED:
            changes.subtract(order.lines)
    for sku, left in seen.stock.items():
        if left != changes[sku]:
            problem = f"{left} units are left, {changes[sku]} remain of what was put in after what was sold"
            yield sku, problem, [f"began with {seen.stocked.get(sku)}"]


def reads_never_contradict(seen: Evidence) -> Iterator[Problem]:
    """Of two answers that follow each other the later one tells of a state that can come after the earlier one's."""
    told: dict[str, list[tuple[str, Operation]]] = {}
    for operation in seen.operations:
        for order_id, status in _states_told(operation):
            told.setdefault(order_id, []).append((status, operation))
        if operation.kind in (Kind.READ, Kind.TIMELINE) and operation.status == 404:
            yield operation.subject, "an order that was answered is not found", [operation]
    for order_id, states in told.items():
        # What the tables say is what is seen last.
        end = seen.orders[order_id].row["status"] if order_id in seen.orders else "not there"
        for status, earlier in states:
            later = [(then, one) for then, one in states if one.began_at > (earlier.ended_at or one.began_at)]
            wrong = [one for then, one in later if then not in _AFTER[status]]
            if wrong or end not in _AFTER[status]:
                yield order_id, f"went back from {status} (it ended as {end})", [earlier, *wrong]


def timelines_only_grow(seen: Evidence) -> Iterator[Problem]:
    """What somebody was shown of a timeline is how the timeline begins for ever."""
    for operation in seen.operations:
        if operation.kind is not Kind.TIMELINE or not operation.is_ok or operation.subject not in seen.orders:
            continue
        shown = [(event["seq"], event["status"], event["reason"]) for event in operation.reply["events"]]
        order = seen.orders[operation.subject]
        kept = [(event["seq"], str(event["status"]), event["reason"]) for event in order.events]
        if shown != kept[: len(shown)]:
            yield operation.subject, f"had the timeline {shown}, now has {kept}", [operation, order]


def replies_are_documented(seen: Evidence) -> Iterator[Problem]:
    """No reply says that the request was malformed, as none was, or that the server met what it did not expect."""
    for operation in seen.operations:
        if operation.status in (400, 405, 413, 415, 500):
            yield operation.subject, f"was answered {operation.status}", [operation]


CHECKS: tuple[Check, ...] = (
    *(accepted_orders_are_there, a_key_makes_one_order, nobody_orders_by_himself, replays_are_identical),
    *(
        answers_come_true,
        refusals_have_no_effect,
        cards_that_never_pay_buy_nothing,
        an_order_has_one_payment,
    ),
    *(stock_is_answered_alike, cancellations_come_true),
    *(refunds_happen_once, nobody_refunds_by_himself, direct_changes_of_stock_happen_once, units_add_up),
    *(reads_never_contradict, timelines_only_grow, replies_are_documented),
)


def violations(seen: Evidence, checks: Iterable[Check] = CHECKS) -> list[Violation]:
    """Whatever does not hold, each with the operations and rows that show it."""
    return [
        Violation(check.__name__, subject, problem, "\n".join(map(str, rows)))
        for check in checks
        for subject, problem, rows in check(seen)
    ]


def unknown_resolved(seen: Evidence) -> Counter[str]:
    """What became of the orders that no reply told the end of."""
    found: Counter[str] = Counter()
    for user, operations in by_subject(seen.operations, Kind.ORDER, Kind.REPEAT).items():
        if any(one.is_refused or one.status == 201 for one in operations):
            continue
        orders = seen.orders_of(user)
        found.update(str(order.status) for order in orders)
        found["not there"] += not orders
    return found


def _orders(seen: Evidence) -> Iterator[Operation]:
    return (one for one in seen.operations if one.kind in (Kind.ORDER, Kind.REPEAT, Kind.MISUSE))


def _names(operation: Operation, order: OrderRecord) -> bool:
    return operation.order_id == order.order_id


def _states_told(operation: Operation) -> list[tuple[str, str]]:
    """The orders that a reply tells about, each with its state then."""
    if not operation.is_ok or operation.kind is Kind.REFUND:
        return []
    told = [operation.reply, *operation.reply.get("items", ())]
    return [(order["order_id"], order["status"]) for order in told if "order_id" in order and "status" in order]


def _differences(operation: Operation, order: OrderRecord) -> list[str]:
    body = operation.body or {}
    lines = {item["sku"]: item["quantity"] for item in body.get("items", [body])}
    wrong = [name for name in _ORDERED if order.row[name] != body[name]]
    return wrong + ["lines"] * (order.lines != lines)


_ORDERED = ("user_id", "total_amount", "currency", "payment_method")


def _what_stays(operation: Operation) -> str:
    changing = _CHANGES_LATER if operation.is_ok else _EACH_REPLY_HAS_ITS_OWN
    stays = {name: value for name, value in operation.reply.items() if name not in changing}
    return f"{operation.status} {sorted(stays.items())}"


def _possible(done: Any, not_done: Any, operations: Iterable[Operation]) -> list[Any]:
    """What may have been done, as far as the replies tell."""
    outcomes = {operation.outcome for operation in operations}
    if Outcome.OK in outcomes:
        return [done]
    return [not_done] if outcomes == {Outcome.REFUSED} else [done, not_done]


def _moved(seen: Evidence, request_id: str) -> tuple[Mapping[str, int], list[Any]]:
    rows = seen.ledger.get(request_id, [])
    moved: Counter[str] = Counter()
    for row in rows:
        if row["sku"] is not None:
            moved[row["sku"]] += row["delta"]
    return {sku: delta for sku, delta in moved.items() if delta}, rows


def _reachable() -> dict[str, set[str]]:
    """The states that an order may be seen in once it was seen in another one."""
    after = {status: {status} for status in TRANSITIONS}
    for _ in TRANSITIONS:
        for status, reached in after.items():
            after[status] = reached.union(*(TRANSITIONS[one] for one in reached))
    return {str(status): set(map(str, reached)) for status, reached in after.items()}


_AFTER = _reachable()
assert {"completed", "failed", "cancelled"} == set(map(str, FINAL))
