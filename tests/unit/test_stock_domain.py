"""Who gets what of the stock, whatever is asked for."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from common.contracts.inventory import (
    LedgerKind,
    OutOfStock,
    SkuNotFound,
    StockChange,
    StockLimitExceeded,
    StockRequestRolledBack,
)
from common.errors import IdempotencyMismatch
from inventory_service.domain import ChangeRequest, LedgerRow, allocate, undo

SKUS = st.sampled_from("ABC")
STOCK = st.dictionaries(SKUS, st.integers(0, 20), max_size=3)
CARTS = st.lists(st.dictionaries(SKUS, st.integers(1, 8), min_size=1), max_size=12)


def take(request_id: str, lines: dict[str, int], *, repeatable: bool = True) -> ChangeRequest:
    taken = {sku: -quantity for sku, quantity in sorted(lines.items())}
    return ChangeRequest(request_id, LedgerKind.DEDUCT, taken, repeatable=repeatable)


def rows_by_request(rows: list[LedgerRow]) -> dict[str, list[LedgerRow]]:
    found: dict[str, list[LedgerRow]] = {}
    for row in rows:
        found.setdefault(row.request_id, []).append(row)
    return found


@given(STOCK, CARTS)
def test_stock_is_given_out_in_order_and_never_twice(stock: dict[str, int], carts: list[dict[str, int]]) -> None:
    """Each cart gets everything that the carts before it left, or nothing; nothing goes below zero."""
    allocation = allocate([take(f"r{n}", cart) for n, cart in enumerate(carts)], stock, {})

    left = dict(stock)
    for cart, outcome in zip(carts, allocation.outcomes, strict=True):
        if set(cart) - set(stock):
            assert isinstance(outcome, SkuNotFound)
        elif any(left[sku] < quantity for sku, quantity in cart.items()):
            assert isinstance(outcome, OutOfStock)
            short = {line["sku"] for line in outcome.extra["lines"]}
            assert short == {sku for sku, quantity in cart.items() if left[sku] < quantity}
        else:
            assert isinstance(outcome, StockChange)
            for sku, quantity in cart.items():
                left[sku] -= quantity
            assert {item.sku: item.quantity for item in outcome.items} == {sku: left[sku] for sku in cart}
    assert {sku: stock[sku] + allocation.deltas[sku] for sku in stock} == left
    assert all(row.quantity >= 0 for row in allocation.rows)


@given(STOCK, CARTS)
def test_the_ledger_rows_are_the_deltas(stock: dict[str, int], carts: list[dict[str, int]]) -> None:
    """What is written to the ledger sums up to what is written to the stock."""
    allocation = allocate([take(f"r{n}", cart) for n, cart in enumerate(carts)], stock, {})
    for sku in stock:
        assert sum(row.delta for row in allocation.rows if row.sku == sku) == allocation.deltas[sku]


@given(STOCK, CARTS)
def test_a_repeated_request_gets_its_answer_and_changes_nothing(
    stock: dict[str, int], carts: list[dict[str, int]]
) -> None:
    """The same list again, with the first one's rows in the ledger, is answered alike and writes nothing."""
    requests = [take(f"r{n}", cart) for n, cart in enumerate(carts)]
    first = allocate(requests, stock, {})
    left = {sku: stock[sku] + first.deltas[sku] for sku in stock}

    again = allocate(requests, left, rows_by_request(first.rows))

    assert again.rows == []
    assert set(again.deltas.values()) <= {0}
    assert [str(outcome) for outcome in again.outcomes] == [str(outcome) for outcome in first.outcomes]


@given(STOCK, CARTS)
def test_rolling_back_restores_the_stock(stock: dict[str, int], carts: list[dict[str, int]]) -> None:
    """Every decrease rolled back, twice in one list: the stock is what it was."""
    requests = [take(f"r{n}", cart) for n, cart in enumerate(carts)]
    taken = allocate(requests, stock, {})
    left = {sku: stock[sku] + taken.deltas[sku] for sku in stock}
    ids = [request.request_id for request in requests]

    undone = undo(ids + ids, left, rows_by_request(taken.rows))

    assert {sku: left[sku] + undone.deltas[sku] for sku in stock} == stock
    assert undone.outcomes[: len(ids)] == undone.outcomes[len(ids) :]


def test_a_rollback_that_comes_first_keeps_the_request_out() -> None:
    """A decrease that arrives after its rollback is refused for good."""
    undone = undo(["r"], {}, {})
    late = allocate([take("r", {"A": 1})], {"A": 10}, rows_by_request(undone.rows))

    assert isinstance(late.outcomes[0], StockRequestRolledBack)
    assert (late.rows, late.deltas) == ([], {"A": 0})


def test_the_same_id_with_other_lines_is_a_mistake() -> None:
    """A request id stands for its lines; with others it is refused and changes nothing."""
    first = allocate([take("r", {"A": 1}), take("r", {"A": 2})], {"A": 10}, {})
    assert isinstance(first.outcomes[1], IdempotencyMismatch)
    assert first.deltas == {"A": -1}


def test_the_id_of_a_refused_request_with_other_lines_is_a_mistake() -> None:
    """A refusal, too, is given again only to the same request, and says nothing of how it was recorded."""
    first = allocate([take("r", {"A": 9})], {"A": 1}, {})
    rows = rows_by_request(first.rows)
    same, other = allocate([take("r", {"A": 9}), take("r", {"A": 1})], {"A": 1}, rows).outcomes
    assert isinstance(same, OutOfStock)
    assert isinstance(first.outcomes[0], OutOfStock)
    assert same.to_problem() == first.outcomes[0].to_problem()
    assert isinstance(other, IdempotencyMismatch)


def test_a_refusal_recorded_before_its_lines_were_is_given_again() -> None:
    """Rows of an older version do not tell the lines; their answer stays what it was."""
    [row] = allocate([take("r", {"A": 9})], {"A": 1}, {}).rows
    assert row.refusal is not None
    old = replace(row, refusal=json.dumps({k: v for k, v in json.loads(row.refusal).items() if k != "asked_lines"}))
    assert isinstance(allocate([take("r", {"A": 1})], {"A": 1}, {"r": [old]}).outcomes[0], OutOfStock)


def test_an_unnamed_refusal_leaves_no_row() -> None:
    """Nobody can repeat a request that has no id of the caller's, so its refusal need not be remembered."""
    assert allocate([take("r", {"A": 1}, repeatable=False)], {"A": 0}, {}).rows == []


def test_a_restock_beyond_the_limit_is_refused() -> None:
    """No SKU holds more than the limit."""
    restock = ChangeRequest("r", LedgerKind.RESTOCK, {"A": 1})
    assert isinstance(allocate([restock], {"A": 10**12}, {}).outcomes[0], StockLimitExceeded)
