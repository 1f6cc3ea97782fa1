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
from common.database import Database
from common.errors import ServiceError
from common.transaction import DuplicateKey, Transaction
from inventory_service import domain, queries
from inventory_service.domain import ChangeRequest, LedgerRow

# A duplicate key means that somebody else was first; what he wrote is read, and mostly that settles it. It takes
# more rounds only when others go on being first with other requests of the same list.
_ROUNDS = 8


class Stock:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, items: Sequence[CreateStock]) -> list[StockLevel | ServiceError]:
        """Make new SKUs. Outcomes: the level, or SkuExists."""
        # The ids are minted before, so that a transaction that is run again knows its own rows.
        named = [(str(uuid7()), item) for item in items]
        return await self._database.transaction(partial(_create, items=named))

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


async def _create(tx: Transaction, items: Sequence[tuple[str, CreateStock]]) -> list[StockLevel | ServiceError]:
    first = {item.sku: (creation_id, item) for creation_id, item in reversed(items)}
    existing: set[str] = set()
    for _ in range(_ROUNDS):
        new = {sku: named for sku, named in first.items() if sku not in existing}
        try:
            queries.insert_stock(tx, [item for _, item in new.values()])
            await tx.flush()
        except DuplicateKey:
            existing = {level.sku for level in await queries.get_stock(tx, list(first))}
            continue
        queries.insert_ledger(
            tx,
            [
                LedgerRow(creation_id, LedgerKind.CREATE, 1, sku, item.quantity, item.quantity)
                for sku, (creation_id, item) in new.items()
            ],
        )
        created = await queries.get_requests(tx, [LedgerKind.CREATE], [creation_id for creation_id, _ in items])
        return [
            StockLevel(product_id=item.product_id, sku=item.sku, quantity=item.quantity)
            if creation_id in created
            else SkuExists(f"The SKU {item.sku} exists already.")
            for creation_id, item in items
        ]
    raise RuntimeError("The SKUs exist, and cannot be read.")


async def _change(tx: Transaction, requests: Sequence[ChangeRequest]) -> list[StockChange | ServiceError]:
    stock = await queries.lock_stock(tx, {sku for request in requests for sku in request.lines})
    recorded: dict[str, list[LedgerRow]] = {}
    for _ in range(_ROUNDS):
        allocation = domain.allocate(requests, stock, recorded)
        queries.insert_ledger(tx, allocation.rows)
        queries.change_stock(tx, allocation.deltas)
        try:
            await tx.commit()
        except DuplicateKey:
            kinds = {kind for request in requests for kind in domain.DECIDING_KINDS[request.kind]}
            recorded = await queries.get_requests(tx, kinds, [request.request_id for request in requests])
            continue
        return allocation.outcomes
    raise RuntimeError("The requests are in the ledger, and cannot be read.")


async def _rollback(tx: Transaction, request_ids: Sequence[str]) -> list[StockChange]:
    for _ in range(_ROUNDS):
        recorded = await queries.get_requests(tx, domain.DECIDING_KINDS[LedgerKind.DEDUCT], request_ids)
        skus = {row.sku for rows in recorded.values() for row in rows if row.sku is not None}
        stock = await queries.lock_stock(tx, skus) if skus else {}
        undone = domain.undo(request_ids, stock, recorded)
        queries.insert_ledger(tx, undone.rows)
        queries.change_stock(tx, undone.deltas)
        try:
            await tx.commit()
        except DuplicateKey:
            # The decrease, or another rollback of it, was written meanwhile; now it can be read.
            continue
        return undone.changes
    raise RuntimeError("The requests are in the ledger, and cannot be read.")
