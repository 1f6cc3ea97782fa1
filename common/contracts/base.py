"""The bounds and types that the contracts of all services share."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# Ten times the world's yearly retail in cents; a sum of thousands of them still fits a BIGINT.
AMOUNT_MAX = 10**15
QUANTITY_MAX = 1_000_000
STOCK_MAX = 10**12
LINES_MAX = 50
BATCH_MAX = 256
PAGE_MAX = 200

# Printable ASCII without blanks at the ends: safe in URLs and logs, and equal only when identical.
_TEXT = r"^[!-~](?:[ -~]*[!-~])?$"
_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_CURRENCY = r"^[A-Z]{3}$"
_CURSOR = r"^[A-Za-z0-9_-]+$"
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACE_CONTEXT = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"

# What is said of a text that does not match, as nobody should have to read the pattern.
EXPECTED: Mapping[str, str] = {
    _TEXT: "must be printable ASCII characters without blanks at either end",
    _UUID: "must be a UUID in small letters, such as 01a2042a-7bf1-7255-ad0b-a61e96c9d686",
    _CURRENCY: "must be a currency code of three capital letters (ISO 4217), such as USD",
    _CURSOR: "must be the next_cursor of the page before, unchanged",
    _TRACE_CONTEXT: "must be a traceparent as W3C Trace Context has it: 00, 32 and 16 hexadecimal digits and 01, say, "
    "with - between them",
}

Sku = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_TEXT)]
ProductId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_TEXT)]
UserId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_TEXT)]
CallerRequestId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_TEXT)]
IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_TEXT)]
PaymentMethod = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_TEXT)]
TraceContext = Annotated[str, StringConstraints(pattern=_TRACE_CONTEXT)]
Uuid = Annotated[str, StringConstraints(pattern=_UUID)]
Currency = Annotated[str, StringConstraints(pattern=_CURRENCY)]
Cursor = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_CURSOR)]
Amount = Annotated[int, Field(gt=0, le=AMOUNT_MAX, description="in minor units, such as cents")]
Quantity = Annotated[int, Field(gt=0, le=QUANTITY_MAX)]
StockQuantity = Annotated[int, Field(ge=0, le=STOCK_MAX)]
Timestamp = Annotated[datetime, Field(description="UTC, RFC 3339")]


class Request(BaseModel):
    """What a caller sends: strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class View(BaseModel):
    """What a service answers. A client ignores fields that are newer than itself."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Problem(View):
    """An error as the item of a batch: the problem document of the single call."""

    model_config = ConfigDict(extra="allow", frozen=True)

    status: int
    code: str
    detail: str


V = TypeVar("V", bound=View)


class Outcome(View, Generic[V]):
    """The outcome of one item of a batch: either ``result`` or ``error``."""

    status: int
    result: V | None = None
    error: Problem | None = None


class Outcomes(View, Generic[V]):
    """One outcome for each item of a batch, in order."""

    items: list[Outcome[V]]


class Page(View, Generic[V]):
    """A page of a list. ``next_cursor`` is absent on the last one."""

    items: list[V]
    next_cursor: str | None = None


def form(given: Mapping[str, str], *, without: Iterable[str]) -> dict[str, Any]:
    """A JSON Schema: one of several forms of a body, with the fields that are ``given`` (and their JSON types)."""
    return {
        "required": list(given),
        "properties": {name: {"type": kind} for name, kind in (*given.items(), *((name, "null") for name in without))},
    }


PageLimit = Annotated[int, Field(ge=1, le=PAGE_MAX, description="items on a page at the most")]


def merge_lines(lines: Iterable[Any]) -> dict[str, int]:
    """The quantity of each SKU, lines of one SKU summed, in SKU order (the order in which rows are locked).

    Raises ValueError when a sum exceeds QUANTITY_MAX.
    """
    quantities: dict[str, int] = {}
    for line in lines:
        quantities[line.sku] = quantities.get(line.sku, 0) + line.quantity
    for sku, quantity in quantities.items():
        if quantity > QUANTITY_MAX:
            raise ValueError(f"the lines of {sku} sum up to {quantity}; the most is {QUANTITY_MAX}")
    return dict(sorted(quantities.items()))
