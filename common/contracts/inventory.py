"""The language of the inventory service."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from common.contracts.base import (
    BATCH_MAX,
    LINES_MAX,
    CallerRequestId,
    Cursor,
    PageLimit,
    ProductId,
    Quantity,
    Request,
    Sku,
    StockQuantity,
    Timestamp,
    Uuid,
    View,
    form,
    merge_lines,
)
from common.errors import Conflict, NotFound


class OutOfStock(Conflict):
    """There is not enough stock.

    ``extra["lines"]`` lists ``{"sku", "requested", "available"}`` for each line that falls short.
    """

    code = "out_of_stock"


class SkuNotFound(NotFound):
    """There is no such SKU.

    ``extra["skus"]`` lists the unknown ones.
    """

    code = "sku_not_found"


class SkuExists(Conflict):
    """The SKU exists already."""

    code = "sku_exists"


class StockLimitExceeded(Conflict):
    """The stock would grow beyond what one SKU may hold."""

    code = "stock_limit_exceeded"


class StockRequestRolledBack(Conflict):
    """The request was rolled back, before or after it arrived, and can no longer take stock."""

    code = "stock_request_rolled_back"


class StockLocked(Conflict):
    """Somebody else holds the stock for longer than the service waits.

    ``extra["sku"]`` names the SKU. The request may still take effect: repeat it with the same ``request_id``.
    """

    code = "stock_locked"
    retryable = True


class LedgerKind(StrEnum):
    CREATE = "create"
    RESTOCK = "restock"
    DEDUCT = "deduct"
    ROLLBACK = "rollback"


class StockLine(Request):
    """So many of one SKU."""

    sku: Sku
    quantity: Quantity


Lines = Annotated[list[StockLine], Field(min_length=1, max_length=LINES_MAX)]


class CreateStock(Request):
    """A new SKU with its first stock."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"product_id": "mug", "sku": "MUG-1", "quantity": 100}]},
    )

    product_id: ProductId
    sku: Sku
    quantity: StockQuantity


class DecreaseStock(Request):
    """Take stock, all lines or none: one ``sku`` and ``quantity``, or several ``items`` with a ``request_id``."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                form({"sku": "string", "quantity": "integer"}, without=["items"]),
                form({"items": "array", "request_id": "string"}, without=["sku", "quantity"]),
            ],
            "examples": [
                {"sku": "MUG-1", "quantity": 2},
                {"items": [{"sku": "MUG-1", "quantity": 2}], "request_id": "pick-7"},
            ],
        },
    )

    sku: Sku | None = None
    quantity: Quantity | None = None
    items: Lines | None = None
    request_id: CallerRequestId | None = Field(None, description="the same id takes effect once only")
    order_id: Uuid | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.items is None and (self.sku is None or self.quantity is None):
            raise ValueError("give either sku and quantity, or items")
        if self.items is not None and (self.sku is not None or self.quantity is not None):
            raise ValueError("give either sku and quantity, or items, not both")
        if self.items is not None and self.request_id is None:
            raise ValueError("items need a request_id")
        if self.items is not None:
            merge_lines(self.items)
        return self

    @property
    def quantities(self) -> dict[str, int]:
        """What is taken of each SKU, in SKU order."""
        if self.items is not None:
            return merge_lines(self.items)
        assert self.sku is not None
        assert self.quantity is not None
        return {self.sku: self.quantity}


class IncreaseStock(Request):
    """Add stock to a SKU."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sku": "MUG-1", "quantity": 50, "request_id": "delivery-42"}]},
    )

    sku: Sku
    quantity: Quantity
    request_id: CallerRequestId = Field(description="the same id takes effect once only")


class RollbackStock(Request):
    """Undo the decrease of that ``request_id``, or keep it from ever happening."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"request_id": "pick-7"}]})

    request_id: CallerRequestId


class DecreaseStockBatch(Request):
    """Several decreases, each with its own outcome."""

    items: Annotated[list[DecreaseStock], Field(min_length=1, max_length=BATCH_MAX)]


class RollbackStockBatch(Request):
    """Several rollbacks, each with its own outcome."""

    items: Annotated[list[RollbackStock], Field(min_length=1, max_length=BATCH_MAX)]


class SkuQuery(Request):
    sku: Sku


class ProductQuery(Request):
    product_id: ProductId


class LedgerQuery(Request):
    sku: Sku
    limit: PageLimit = 50
    cursor: Cursor | None = None


class StockLevel(View):
    """The stock of one SKU."""

    product_id: str
    sku: str
    quantity: int


class StockLevels(View):
    """The stock of each SKU of a product."""

    items: list[StockLevel]


class StockMovement(View):
    """What a request did to one SKU: ``delta``, and the stock right after it."""

    sku: str
    delta: int
    quantity: int


class StockChange(View):
    """What a request did to the stock; the same id is always answered with the same change."""

    request_id: str
    items: list[StockMovement]


class LedgerEntry(View):
    """One row of the append-only stock ledger. ``quantity`` is the stock right after it."""

    sku: str
    request_id: str
    kind: LedgerKind
    delta: int
    quantity: int
    order_id: str | None
    created_at: Timestamp
