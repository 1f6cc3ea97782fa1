"""The client of the inventory service."""

from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias

from common.clients.blocking import BlockingClient, blocking, blocking_iterator
from common.clients.client import AsyncClient
from common.clients.replies import read_outcomes
from common.clients.requests import Items, named_fields, new_request_id, stock_lines
from common.contracts.base import Outcomes, Page
from common.contracts.inventory import (
    CreateStock,
    DecreaseStock,
    DecreaseStockBatch,
    IncreaseStock,
    LedgerEntry,
    LedgerQuery,
    ProductQuery,
    RollbackStock,
    RollbackStockBatch,
    SkuQuery,
    StockChange,
    StockLevel,
    StockLevels,
)
from common.errors import ServiceError

# The methods called ``list`` hide the builtin inside the classes.
Levels: TypeAlias = list[StockLevel]
Changes: TypeAlias = list[StockChange | ServiceError]


class AsyncInventoryClient(AsyncClient):
    """Reads and changes stock.

    Each change takes effect once only for a ``request_id``. Without one a call makes its own, the same for all its
    attempts; give one to be able to repeat the call after a crash of your own.
    """

    default_url = "http://127.0.0.1:8082"

    async def create(self, *, product_id: str, sku: str, quantity: int) -> StockLevel:
        """Add a new SKU with its first stock. Raises SkuExists.

        After a lost reply this call is not repeated: SkuExists could then mean either success or failure.
        """
        with named_fields:
            stock = CreateStock(product_id=product_id, sku=sku, quantity=quantity)
        return await self._call("POST", "/inventory/create", StockLevel, body=stock, is_idempotent=False)

    async def get(self, sku: str) -> StockLevel:
        """Raises SkuNotFound."""
        with named_fields:
            query = SkuQuery(sku=sku)
        return await self._call("GET", "/inventory/sku", StockLevel, query=query)

    async def list(self, product_id: str) -> Levels:
        """The stock of each SKU of a product."""
        with named_fields:
            query = ProductQuery(product_id=product_id)
        return (await self._call("GET", "/inventories", StockLevels, query=query)).items

    async def decrease(
        self,
        *,
        sku: str | None = None,
        quantity: int | None = None,
        items: Items | None = None,
        request_id: str | None = None,
        order_id: str | None = None,
    ) -> StockChange:
        """Take stock, all lines or none. Raises OutOfStock, SkuNotFound, StockRequestRolledBack, StockLocked."""
        with named_fields:
            decrease = DecreaseStock(
                sku=sku,
                quantity=quantity,
                items=None if items is None else stock_lines(items),
                request_id=request_id or new_request_id(),
                order_id=order_id,
            )
        return await self._call("POST", "/inventory/decrease", StockChange, body=decrease)

    async def decrease_batch(self, items: Sequence[DecreaseStock]) -> Changes:
        """Several decreases in one request, each with its own outcome, in order."""
        with named_fields:
            batch = DecreaseStockBatch(items=[_with_request_id(item) for item in items])
        outcomes = await self._call("POST", "/inventory/decrease/batch", Outcomes[StockChange], body=batch)
        return read_outcomes(outcomes, expected=len(items))

    async def increase(self, *, sku: str, quantity: int, request_id: str | None = None) -> StockChange:
        """Add stock. Raises SkuNotFound, StockLimitExceeded and StockLocked."""
        with named_fields:
            increase = IncreaseStock(sku=sku, quantity=quantity, request_id=request_id or new_request_id())
        return await self._call("POST", "/inventory/increase", StockChange, body=increase)

    async def rollback(self, request_id: str) -> StockChange:
        """Undo the decrease of that id, or keep it from ever happening. Raises StockLocked."""
        with named_fields:
            rollback = RollbackStock(request_id=request_id)
        return await self._call("POST", "/inventory/rollback", StockChange, body=rollback)

    async def rollback_batch(self, items: Sequence[RollbackStock]) -> Changes:
        """Several rollbacks in one request, each with its own outcome, in order."""
        with named_fields:
            batch = RollbackStockBatch(items=[*items])
        outcomes = await self._call("POST", "/inventory/rollback/batch", Outcomes[StockChange], body=batch)
        return read_outcomes(outcomes, expected=len(items))

    def ledger(self, sku: str, *, page_size: int = 50) -> AsyncIterator[LedgerEntry]:
        """Every change of a SKU's stock, newest first; ``page_size`` entries a request. Raises SkuNotFound."""
        with named_fields:
            query = LedgerQuery(sku=sku, limit=page_size)
        return self._items("/inventory/ledger", Page[LedgerEntry], query)


class InventoryClient(BlockingClient[AsyncInventoryClient]):
    """:class:`AsyncInventoryClient` for scripts without an event loop: the same methods, blocking."""

    async_class = AsyncInventoryClient

    create = blocking(AsyncInventoryClient.create)
    get = blocking(AsyncInventoryClient.get)
    list = blocking(AsyncInventoryClient.list)
    decrease = blocking(AsyncInventoryClient.decrease)
    decrease_batch = blocking(AsyncInventoryClient.decrease_batch)
    increase = blocking(AsyncInventoryClient.increase)
    rollback = blocking(AsyncInventoryClient.rollback)
    rollback_batch = blocking(AsyncInventoryClient.rollback_batch)
    ledger = blocking_iterator(AsyncInventoryClient.ledger)


def _with_request_id(item: DecreaseStock) -> DecreaseStock:
    return item if item.request_id else item.model_copy(update={"request_id": new_request_id()})
