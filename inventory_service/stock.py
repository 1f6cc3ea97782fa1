"""What the inventory service does. Each use case takes a list and gives one outcome an item, in order."""

from collections.abc import Sequence
from functools import partial

from uuid_utils import uuid7

from common.contracts.base import merge_lines
from common.contracts.inventory import (
    CreateStock,
    DecreaseStock,
    IncreaseStock,
    LedgerEntry,
    LedgerKind,
    SkuExists,
    SkuNotFound,
    StockChange,
    StockLevel,
)
from common.database import Database, DuplicateKey, Transaction
from common.errors import ServiceError
from inventory_service import domain, queries
from inventory_service.domain import ChangeRequest, LedgerRow


class Stock:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, items: Sequence[CreateStock]) -> list[StockLevel | ServiceError]:
        """Make new SKUs. Outcomes: the level, or SkuExists."""
        return await self._database.transaction(partial(_create, items=items))

    async def decrease(self, items: Sequence[DecreaseStock]) -> list[StockChange | ServiceError]:
        """Take stock in the order given. Outcomes: the change, or OutOfStock, SkuNotFound, StockRequestRolledBack,
        IdempotencyMismatch."""
        return await self._change(
            [
                ChangeRequest(
                    request_id=item.request_id or str(uuid7()),
                    kind=LedgerKind.DEDUCT,
                    lines={sku: -quantity for sku, quantity in merge_lines(item.lines).items()},
                    order_id=item.order_id,
                    repeatable=item.request_id is not None,
                )
                for item in items
            ]
        )

    async def increase(self, items: Sequence[IncreaseStock]) -> list[StockChange | ServiceError]:
        """Add stock. Outcomes: the change, or SkuNotFound, StockLimitExceeded, IdempotencyMismatch."""
        return await self._change(
            [ChangeRequest(item.request_id, LedgerKind.RESTOCK, {item.sku: item.quantity}) for item in items]
        )

    async def _change(self, requests: Sequence[ChangeRequest]) -> list[StockChange | ServiceError]:
        return await self._database.transaction(partial(_change, requests=requests))

    async def rollback(self, request_ids: Sequence[str]) -> list[StockChange]:
        """Give back what each decrease took; one that has not arrived yet will be refused when it does."""
        return await self._database.transaction(partial(_rollback, request_ids=request_ids))

    async def get(self, sku: str) -> StockLevel:
        """Raises SkuNotFound."""
        levels = await self._database.read(partial(queries.get_stock, skus=[sku]))
        if not levels:
            raise SkuNotFound(f"Unknown SKU: {sku}.", skus=[sku])
        return levels[0]

    async def list_product(self, product_id: str) -> list[StockLevel]:
        return await self._database.read(partial(queries.get_stock_of_product, product_id=product_id))

    async def ledger(self, sku: str, before: int | None, limit: int) -> tuple[list[LedgerEntry], int | None]:
        """A page of the ledger, newest first, and the position before which the next page starts.

        Raises SkuNotFound.
        """
        found = await self._database.read(partial(queries.get_ledger, sku=sku, before=before, limit=limit + 1))
        if not found:
            await self.get(sku)
        page = found[:limit]
        return [entry for _, entry in page], page[-1][0] if len(found) > limit else None


async def _create(tx: Transaction, items: Sequence[CreateStock]) -> list[StockLevel | ServiceError]:
    existing: set[str] = set()
    while True:
        new = list({item.sku: item for item in reversed(items) if item.sku not in existing}.values())
        try:
            await queries.insert_stock(tx, new)
            break
        except DuplicateKey:
            existing = {level.sku for level in await queries.get_stock(tx, [item.sku for item in items])}
    await queries.insert_ledger(
        tx,
        [LedgerRow(item.sku, LedgerKind.CREATE, 1, item.sku, item.quantity, item.quantity) for item in new],
    )
    return [
        StockLevel(product_id=item.product_id, sku=item.sku, quantity=item.quantity)
        if any(item is created for created in new)
        else SkuExists(f"The SKU {item.sku} exists already.")
        for item in items
    ]


async def _change(tx: Transaction, requests: Sequence[ChangeRequest]) -> list[StockChange | ServiceError]:
    stock = await queries.lock_stock(tx, {sku for request in requests for sku in request.lines})
    recorded: dict[str, list[LedgerRow]] = {}
    while True:
        allocation = domain.allocate(requests, stock, recorded)
        try:
            await queries.insert_ledger(tx, allocation.rows)
            break
        except DuplicateKey:
            kinds = {kind for request in requests for kind in domain.DECIDING_KINDS[request.kind]}
            recorded = await queries.get_requests(tx, kinds, [request.request_id for request in requests])
    if allocation.deltas:
        await queries.change_stock(tx, allocation.deltas)
    return allocation.outcomes


async def _rollback(tx: Transaction, request_ids: Sequence[str]) -> list[StockChange]:
    while True:
        recorded = await queries.get_requests(tx, domain.DECIDING_KINDS[LedgerKind.DEDUCT], request_ids)
        skus = {row.sku for rows in recorded.values() for row in rows if row.sku is not None}
        stock = await queries.lock_stock(tx, skus) if skus else {}
        undone = domain.undo(request_ids, stock, recorded)
        try:
            await queries.insert_ledger(tx, undone.rows)
            break
        except DuplicateKey:
            # The decrease, or another rollback of it, was written meanwhile; now it can be read.
            continue
    if undone.deltas:
        await queries.change_stock(tx, undone.deltas)
    return undone.changes
