"""From HTTP to a use case and back."""

from common.contracts.base import Page
from common.contracts.inventory import (
    CreateStock,
    DecreaseStock,
    DecreaseStockBatch,
    IncreaseStock,
    LedgerQuery,
    ProductQuery,
    RollbackStock,
    RollbackStockBatch,
    SkuQuery,
    StockLevels,
)
from common.errors import unwrap
from common.paging import decode_cursor, encode_cursor
from common.routes import Call, Reply, batch_reply
from common.telemetry import bind_orders
from inventory_service.sku_queue import SkuQueue
from inventory_service.stock import Stock

Decreases = SkuQueue[DecreaseStock]
Increases = SkuQueue[IncreaseStock]
Rollbacks = SkuQueue[str]


class Handlers:
    def __init__(self, stock: Stock, decreases: Decreases, increases: Increases, rollbacks: Rollbacks) -> None:
        self._stock = stock
        self._decreases = decreases
        self._increases = increases
        self._rollbacks = rollbacks

    async def create(self, call: Call[CreateStock, None, None]) -> Reply:
        [level] = await self._stock.create([call.body])
        return Reply(201, unwrap(level))

    async def get(self, call: Call[None, SkuQuery, None]) -> Reply:
        return Reply(200, await self._stock.get(call.query.sku))

    async def list_product(self, call: Call[None, ProductQuery, None]) -> Reply:
        return Reply(200, StockLevels(items=await self._stock.list_product(call.query.product_id)))

    async def decrease(self, call: Call[DecreaseStock, None, None]) -> Reply:
        bind_orders(call.body.order_id)
        return Reply(200, await self._decreases.submit(call.body))

    async def decrease_batch(self, call: Call[DecreaseStockBatch, None, None]) -> Reply:
        bind_orders(*(item.order_id for item in call.body.items))
        return batch_reply(await self._decreases.submit_all(call.body.items))

    async def increase(self, call: Call[IncreaseStock, None, None]) -> Reply:
        return Reply(200, await self._increases.submit(call.body))

    async def rollback(self, call: Call[RollbackStock, None, None]) -> Reply:
        return Reply(200, await self._rollbacks.submit(call.body.request_id))

    async def rollback_batch(self, call: Call[RollbackStockBatch, None, None]) -> Reply:
        return batch_reply(await self._rollbacks.submit_all(item.request_id for item in call.body.items))

    async def ledger(self, call: Call[None, LedgerQuery, None]) -> Reply:
        query = call.query
        position = decode_cursor(query.cursor, _ledger_position)
        entries, before = await self._stock.ledger(query.sku, position, query.limit)
        return Reply(200, Page(items=entries, next_cursor=encode_cursor(before) if before else None))


def _ledger_position(text: str) -> int:
    """Raises ValueError for what no row of the ledger can have."""
    position = int(text)
    if not 0 < position < 2**63:
        raise ValueError("no BIGINT")
    return position
