"""The language of the order service."""

from enum import StrEnum
from typing import Literal, Self

from pydantic import ConfigDict, Field, RootModel, model_validator

from common.contracts.access import FROM_TOKEN
from common.contracts.base import (
    Amount,
    Currency,
    Cursor,
    IdempotencyKey,
    Page,
    PageLimit,
    PaymentMethod,
    Quantity,
    Request,
    Sku,
    Timestamp,
    UserId,
    Uuid,
    View,
    form,
    merge_lines,
)
from common.contracts.inventory import Lines
from common.errors import Conflict, NotFound


class OrderNotFound(NotFound):
    """There is no such order."""

    code = "order_not_found"


class InvalidTransition(Conflict):
    """The order cannot take this step.

    ``extra["allowed"]`` lists the statuses that a caller may ask for now.
    """

    code = "invalid_transition"


class OrderCancelled(Conflict):
    """The order was cancelled before it was completed."""

    code = "order_cancelled"


class OrderStatus(StrEnum):
    CREATED = "created"
    INVENTORY_RESERVED = "inventory_reserved"
    PAID = "paid"
    COMPLETED = "completed"
    FAILING = "failing"
    """It was decided that the order fails; its stock is being released."""
    FAILED = "failed"
    CANCELLING = "cancelling"
    """It was decided to cancel the order; its money and stock are on the way back."""
    CANCELLED = "cancelled"


FINAL = frozenset({OrderStatus.COMPLETED, OrderStatus.FAILED, OrderStatus.CANCELLED})


class CreateOrder(Request):
    """An order: one ``sku`` and ``quantity``, or several ``items``."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                form({"sku": "string"}, without=["items"]),
                form({"items": "array"}, without=["sku", "quantity"]),
            ],
            "examples": [
                {"user_id": "ann", "sku": "MUG-1", "quantity": 2, "total_amount": 1998},
                {"user_id": "ann", "items": [{"sku": "MUG-1", "quantity": 2}], "total_amount": 1998, "currency": "EUR"},
            ],
        },
    )

    user_id: UserId | None = Field(
        None, description="who buys; may be left out where a token says it", json_schema_extra={**FROM_TOKEN}
    )
    sku: Sku | None = None
    quantity: Quantity | None = Field(None, description="1 unless given")
    items: Lines | None = None
    total_amount: Amount
    currency: Currency = "USD"
    payment_method: PaymentMethod = "tok_ok"

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.sku is None) == (self.items is None):
            raise ValueError("give either sku or items")
        if self.items is not None and self.quantity is not None:
            raise ValueError("quantity goes with sku; items have their own")
        if self.items is not None:
            merge_lines(self.items)
        return self

    @property
    def quantities(self) -> dict[str, int]:
        """What is ordered of each SKU, in SKU order."""
        if self.items is not None:
            return merge_lines(self.items)
        assert self.sku is not None
        return {self.sku: self.quantity or 1}


class CreateOrderHeaders(Request):
    idempotency_key: IdempotencyKey | None = Field(
        None, alias="Idempotency-Key", description="the same key creates one order only"
    )


class PlacedOrderHeaders(View):
    location: str = Field(alias="Location", description="where the order is found", pattern="^/orders/")
    idempotent_replayed: Literal["true"] | None = Field(
        None, alias="Idempotent-Replayed", description="given when the order was placed by an earlier request"
    )


class PatchOrder(Request):
    """Ask for a status; ``cancelled`` is the one that a caller may ask for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"order_id": "01a2042a-7bf1-7255-ad0b-a61e96c9d686", "status": "cancelled"}],
        },
    )

    order_id: Uuid
    status: str = Field(max_length=64)


class OrderQuery(Request):
    order_id: Uuid


class ListOrdersQuery(Request):
    """Either one order by ``order_id``, or the orders of a user and status, newest first."""

    order_id: Uuid | None = None
    user_id: UserId | None = None
    status: OrderStatus | None = None
    limit: PageLimit = 50
    cursor: Cursor | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.order_id is not None and self.model_fields_set != {"order_id"}:
            raise ValueError("order_id goes with no other parameter")
        return self


class OrderLine(View):
    """So many of one SKU."""

    sku: str
    quantity: int


class Order(View):
    """An order. ``reason`` is the code of the error that it failed with, or why it was cancelled."""

    order_id: str
    user_id: str
    status: OrderStatus
    items: list[OrderLine]
    total_amount: int
    currency: str
    payment_method: str
    reason: str | None
    created_at: Timestamp
    updated_at: Timestamp


class OrderOrPage(RootModel[Order | Page[Order]]):
    """One order when it was asked for by ``order_id``, else a page of them."""


class OrderEvent(View):
    """One transition of an order."""

    seq: int
    status: OrderStatus
    reason: str | None
    created_at: Timestamp


class OrderTimeline(View):
    """Every transition of an order, oldest first."""

    order_id: str
    events: list[OrderEvent]
