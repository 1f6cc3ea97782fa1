"""What is refused is said in words: which field, what is wrong with it, and what is expected."""

import importlib
import json
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import common.contracts
from common.contracts.base import EXPECTED, Request
from common.contracts.inventory import CreateStock, LedgerQuery
from common.contracts.orders import CreateOrder, ListOrdersQuery, PatchOrder
from common.contracts.payments import CreatePayment, CreatePaymentBatch
from common.errors import invalid_request
from vv.configuration import PROGRAMS

ORDER = {"user_id": "ann", "sku": "MUG-1", "total_amount": 1998}
UUID = "01a2042a-7bf1-7255-ad0b-a61e96c9d686"
TEXT = "must be printable ASCII characters without blanks at either end"


def refusal(model: type[BaseModel], body: object) -> str:
    """The detail of the problem document that answers a body."""
    with pytest.raises(ValidationError) as refused:
        model.model_validate_json(body if isinstance(body, str) else json.dumps(body))
    return invalid_request(refused.value).detail


@pytest.mark.parametrize(
    ("model", "body", "detail"),
    [
        (CreateOrder, {**ORDER, "sku": " MUG-1"}, f"sku: {TEXT}"),
        (CreateOrder, {**ORDER, "sku": ""}, "sku: must have at least 1 character"),
        (CreateOrder, {**ORDER, "sku": "x" * 65}, "sku: must have at most 64 characters"),
        (CreateOrder, {**ORDER, "sku": 7}, "sku: must be a string"),
        (CreateOrder, {"sku": "MUG-1"}, "total_amount: is missing"),
        (CreateOrder, {**ORDER, "colour": "red"}, "colour: is not known here"),
        (CreateOrder, {**ORDER, "total_amount": "19.98"}, "total_amount: must be a whole number"),
        (CreateOrder, {**ORDER, "total_amount": 19.98}, "total_amount: must be a whole number"),
        (CreateOrder, {**ORDER, "total_amount": 0}, "total_amount: must be more than 0"),
        (CreateOrder, {**ORDER, "total_amount": 10**16}, "total_amount: must be at most 1000000000000000"),
        (
            CreateOrder,
            {**ORDER, "currency": "usd"},
            "currency: must be a currency code of three capital letters (ISO 4217), such as USD",
        ),
        (CreateOrder, {**ORDER, "items": []}, "items: must have at least 1 item"),
        (CreateOrder, {**ORDER, "items": [7]}, "items.0: must be an object"),
        (CreateOrder, {**ORDER, "items": 7}, "items: must be a list"),
        (CreateOrder, {"total_amount": 1}, "body: give either sku or items"),
        (CreateOrder, {**ORDER, "sku": "é", "quantity": 0}, f"sku: {TEXT}; quantity: must be more than 0"),
        (CreateOrder, [], "body: must be an object"),
        (CreateOrder, "{", "body: is no JSON: EOF while parsing an object at line 1 column 1"),
        (
            PatchOrder,
            {"order_id": "7", "status": "cancelled"},
            f"order_id: must be a UUID in small letters, such as {UUID}",
        ),
        (CreateStock, {"product_id": "mug", "sku": "MUG-1", "quantity": -1}, "quantity: must be at least 0"),
        (
            CreatePaymentBatch,
            {"items": [{"order_id": UUID, "amount": 1, "payment_method": "tok ok "}]},
            f"items.0.payment_method: {TEXT}",
        ),
    ],
)
def test_a_body_that_is_refused(model: type[BaseModel], body: object, detail: str) -> None:
    """Each field is named, with what is expected of it."""
    assert refusal(model, body) == detail


@pytest.mark.parametrize(
    ("model", "query", "detail"),
    [
        (ListOrdersQuery, {"limit": "many"}, "limit: must be a whole number"),
        (ListOrdersQuery, {"limit": "201"}, "limit: must be at most 200"),
        (ListOrdersQuery, {"cursor": "a b"}, "cursor: must be the next_cursor of the page before, unchanged"),
        (LedgerQuery, {}, "sku: is missing"),
    ],
)
def test_a_query_that_is_refused(model: type[BaseModel], query: dict[str, str], detail: str) -> None:
    """Parameters of a query are spoken of as fields of a body are."""
    with pytest.raises(ValidationError) as refused:
        model.model_validate_strings(query)
    assert invalid_request(refused.value).detail == detail


def test_a_status_that_there_is_not_is_answered_with_those_that_there_are() -> None:
    """Nobody has to look them up."""
    with pytest.raises(ValidationError) as refused:
        ListOrdersQuery.model_validate_strings({"status": "lost"})
    detail = invalid_request(refused.value).detail
    assert detail.startswith("status: must be 'created', 'inventory_reserved',")
    assert detail.endswith(" or 'cancelled'")


def test_a_trace_context_that_is_refused() -> None:
    """It comes from programs, and people read what became of it."""
    detail = refusal(CreatePayment, {"order_id": UUID, "amount": 1, "trace": "00-0-0-01"})
    assert detail.startswith("trace: must be a traceparent")


def test_no_pattern_is_without_words() -> None:
    """Whoever gives a contract a new pattern says beside it what is expected; settings have checks of their own."""
    patterns = {
        pattern for model in requests() for pattern in patterns_in(model.model_json_schema()) if pattern not in EXPECTED
    }
    assert patterns == set()
    for program in PROGRAMS.values():
        assert list(patterns_in(program.settings.model_json_schema())) == []


def requests() -> list[type[BaseModel]]:
    """Every contract that a caller fills in."""
    for module in pkgutil.iter_modules(common.contracts.__path__):
        importlib.import_module(f"common.contracts.{module.name}")
    found = Request.__subclasses__()
    assert len(found) > 10
    return list(found)


def patterns_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        for part in schema.values():
            yield from patterns_in(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from patterns_in(part)
