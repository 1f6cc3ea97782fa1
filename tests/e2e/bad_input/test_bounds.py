"""The bounds of the business: SKUs that look alike, lines that sum up to too much, orders of two forms at once."""

from typing import Any
from uuid import uuid4

import pytest

from common.contracts.base import BATCH_MAX, LINES_MAX, QUANTITY_MAX, STOCK_MAX
from tests.e2e.bad_input.forms import CHARGE, LINES, ORDER, SKU, TAKE_ONE, TAKE_SOME
from tests.e2e.conftest import Books, Servers
from tests.e2e.raw import assert_problem


@pytest.mark.parametrize(
    "two", [("a", "A"), ("x", "x."), ("ab", "a b"), ("n1", "n01")], ids=lambda two: f"{two[0]!r} and {two[1]!r}"
)
def test_skus_that_look_alike_are_distinct(two: tuple[str, str], servers: Servers) -> None:
    """SKUs that differ only by case, a blank inside or a character have a stock each."""
    prefix = uuid4().hex
    skus = [f"{prefix}{each}" for each in two]
    for quantity, sku in enumerate(skus, start=1):
        created = servers.inventory.post("/inventory/create", {"product_id": "p", "sku": sku, "quantity": quantity})
        assert created.status == 201
    assert [servers.inventory.get("/inventory/sku", sku=sku).json()["quantity"] for sku in skus] == [1, 2]


@pytest.mark.parametrize("tail", [" ", "\t", "\u00a0", "\0", "\u0301", "é"])
def test_skus_with_blanks_at_the_end_or_accents_are_refused(tail: str, servers: Servers) -> None:
    """`abc`, `abc ` and `abć` cannot be one SKU, as they would be in a column with MySQL's default collation."""
    sku = servers.new_sku()
    answer = servers.inventory.post("/inventory/create", {"product_id": "p", "sku": sku + tail, "quantity": 1})
    assert_problem(answer, 400, "invalid_request")
    assert answer.fields == ["sku"]


@pytest.mark.parametrize("service", ["order", "inventory"])
def test_lines_of_one_sku_are_summed(service: str, servers: Servers) -> None:
    """A cart with the same SKU three times is a cart with all of them in one line."""
    sku = servers.new_sku(10)
    lines = [{"sku": sku, "quantity": quantity} for quantity in (1, 2, 3)]
    if service == "order":
        answer = servers.order.post("/orders", {"user_id": "u", "items": lines, "total_amount": 1})
        assert (answer.status, answer.json()["items"]) == (201, [{"sku": sku, "quantity": 6}])
    else:
        answer = servers.inventory.post("/inventory/decrease", {"items": lines, "request_id": sku})
        assert (answer.status, answer.json()["items"]) == (200, [{"sku": sku, "delta": -6, "quantity": 4}])
    assert servers.inventory.get("/inventory/sku", sku=sku).json()["quantity"] == 4


@pytest.mark.usefixtures("unchanged")
def test_lines_that_sum_up_to_too_much_are_refused(servers: Servers) -> None:
    """Each line within the limit, the sum of one SKU's lines beyond it."""
    lines = [{"sku": SKU, "quantity": QUANTITY_MAX}, {"sku": SKU, "quantity": 1}]
    for server, path, body in (
        (servers.order, "/orders", {"user_id": "u", "items": lines, "total_amount": 1}),
        (servers.inventory, "/inventory/decrease", {"items": lines, "request_id": "r"}),
        (servers.inventory, "/inventory/decrease/batch", {"items": [{"items": lines, "request_id": "r"}]}),
    ):
        answer = server.post(path, body)
        assert_problem(answer, 400, "invalid_request")
        assert "sum" in answer.json()["detail"]


@pytest.mark.usefixtures("unchanged")
def test_too_many_lines_and_items_are_refused(servers: Servers) -> None:
    """A cart has 50 lines at the most, a batch 256 items."""
    lines = [{"sku": f"{SKU}-{n}", "quantity": 1} for n in range(LINES_MAX + 1)]
    for server, path, body in (
        (servers.order, "/orders", {"user_id": "u", "items": lines, "total_amount": 1}),
        (servers.inventory, "/inventory/decrease", {"items": lines, "request_id": "r"}),
        (servers.inventory, "/inventory/decrease/batch", {"items": [TAKE_ONE] * (BATCH_MAX + 1)}),
        (servers.inventory, "/inventory/rollback/batch", {"items": [{"request_id": "r"}] * (BATCH_MAX + 1)}),
        (servers.payment, "/payments/batch", {"items": [CHARGE] * (BATCH_MAX + 1)}),
    ):
        answer = server.post(path, body)
        assert_problem(answer, 400, "invalid_request")
        assert answer.fields == ["items"]


def test_batch_with_one_invalid_item_does_nothing(servers: Servers, books: Books) -> None:
    """What can be seen to be malformed is refused as a whole, with the item's number; the good items wait."""
    sku = servers.new_sku(10)
    before = books.state()
    items = [{"sku": sku, "quantity": 1, "request_id": uuid4().hex}, {"sku": sku, "quantity": 0}]
    answer = servers.inventory.post("/inventory/decrease/batch", {"items": items})
    assert_problem(answer, 400, "invalid_request")
    assert answer.fields == ["items.1.quantity"]
    assert books.state() == before


@pytest.mark.parametrize("quantity", [11, QUANTITY_MAX])
def test_stock_never_grows_beyond_its_limit(quantity: int, servers: Servers) -> None:
    """A restock that would overflow is a definite 409 and changes nothing."""
    sku = servers.new_sku(STOCK_MAX - 10)
    body = {"sku": sku, "quantity": quantity, "request_id": sku}
    assert_problem(servers.inventory.post("/inventory/increase", body), 409, "stock_limit_exceeded")
    assert servers.inventory.get("/inventory/sku", sku=sku).json()["quantity"] == STOCK_MAX - 10


@pytest.mark.parametrize(
    "body",
    [
        {**ORDER},
        {**ORDER, "sku": None, "items": None},
        {**ORDER, "sku": SKU, "items": LINES},
        {**ORDER, "quantity": 1, "items": LINES},
        {**ORDER, "quantity": 1},
    ],
    ids=["neither", "null", "both", "quantity of items", "quantity alone"],
)
@pytest.mark.usefixtures("unchanged")
def test_order_has_exactly_one_form(body: dict[str, Any], servers: Servers) -> None:
    """One sku, or items: never both, never neither."""
    assert_problem(servers.order.post("/orders", body), 400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"sku": SKU},
        {"quantity": 1},
        {"items": LINES},
        {**TAKE_ONE, "items": LINES},
        {**TAKE_SOME, "quantity": 1},
        {**TAKE_SOME, "request_id": None},
    ],
    ids=lambda body: ",".join(body) or "empty",
)
@pytest.mark.usefixtures("unchanged")
def test_decrease_has_exactly_one_form(body: dict[str, Any], servers: Servers) -> None:
    """One sku and quantity, or items with a request_id."""
    assert_problem(servers.inventory.post("/inventory/decrease", body), 400, "invalid_request")
    assert_problem(servers.inventory.post("/inventory/decrease/batch", {"items": [body]}), 400, "invalid_request")
