"""What the inventory service does. Each use case takes a list and gives one outcome an item, in order."""

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from itertools import chain

from uuid_utils import uuid7

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
    StockLocked,
)
from common.database import Database
from common.errors import ServiceError
from common.transaction import DuplicateKey, Transaction
from inventory_service import domain, queries
from inventory_service.domain import ChangeRequest, LedgerRow

# A duplicate key means that somebody else was first; what was written is read, and mostly that settles it. It takes
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

    async def decrease(
        self, items: Sequence[DecreaseStock], *, wait_for: str | None = None, avoid: Collection[str] = ()
    ) -> list[StockChange | ServiceError]:
        """Take stock in the order given. Outcomes: the change, or OutOfStock, SkuNotFound, StockRequestRolledBack,
        IdempotencyMismatch, or StockLocked if somebody else holds a SKU, or it is one to ``avoid``.

        Nobody waits for a lock but for that of ``wait_for``, once, and nobody waits while holding one.
        """
        return await self._change(
            [
                ChangeRequest(
                    request_id=item.request_id or str(uuid7()),
                    kind=LedgerKind.DEDUCT,
                    lines={sku: -quantity for sku, quantity in item.quantities.items()},
                    order_id=item.order_id,
                    repeatable=item.request_id is not None,
                )
                for item in items
            ],
            wait_for,
            avoid,
        )

    async def increase(
        self, items: Sequence[IncreaseStock], *, wait_for: str | None = None, avoid: Collection[str] = ()
    ) -> list[StockChange | ServiceError]:
        """Add stock. Outcomes: the change, or SkuNotFound, StockLimitExceeded, IdempotencyMismatch, or StockLocked
        as with :meth:`decrease`."""
        requests = [ChangeRequest(item.request_id, LedgerKind.RESTOCK, {item.sku: item.quantity}) for item in items]
        return await self._change(requests, wait_for, avoid)

    async def _change(
        self, requests: Sequence[ChangeRequest], wait_for: str | None, avoid: Collection[str]
    ) -> list[StockChange | ServiceError]:
        avoided = [_first_of(request.lines, avoid) for request in requests]
        if None not in avoided:
            return _merged(avoided, ())
        work = partial(_change, requests=requests, wait_for=wait_for, avoid=avoid)
        return await self._database.transaction(work)

    async def rollback(
        self, request_ids: Sequence[str], *, wait_for: str | None = None, avoid: Collection[str] = ()
    ) -> list[StockChange | ServiceError]:
        """Give back what each decrease took; one that has not arrived yet will be refused when it does.

        Outcomes: the change, or StockLocked as with :meth:`decrease`.
        """
        work = partial(_rollback, request_ids=request_ids, wait_for=wait_for, avoid=avoid)
        return await self._database.transaction(work)

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


async def _change(
    tx: Transaction, requests: Sequence[ChangeRequest], wait_for: str | None, avoid: Collection[str]
) -> list[StockChange | ServiceError]:
    _wait(tx, wait_for)
    stock, held = await _lock(tx, {sku for request in requests for sku in request.lines}, avoid)
    locked = [_first_of(request.lines, held) for request in requests]
    free = [request for request, sku in zip(requests, locked, strict=True) if sku is None]
    recorded: dict[str, list[LedgerRow]] = {}
    for _ in range(_ROUNDS):
        allocation = domain.allocate(free, stock, recorded)
        if not recorded and domain.may_be_recorded(free, allocation):
            recorded = await _recorded(tx, free)
            allocation = domain.allocate(free, stock, recorded)
        queries.insert_ledger(tx, allocation.rows)
        queries.change_stock(tx, allocation.deltas)
        try:
            await tx.commit()
        except DuplicateKey:
            recorded = await _recorded(tx, free)
            continue
        return _merged(locked, allocation.outcomes)
    raise RuntimeError("The requests are in the ledger, and cannot be read.")


async def _recorded(tx: Transaction, requests: Sequence[ChangeRequest]) -> dict[str, list[LedgerRow]]:
    kinds = {kind for request in requests for kind in domain.DECIDING_KINDS[request.kind]}
    return await queries.get_requests(tx, kinds, [request.request_id for request in requests])


async def _rollback(
    tx: Transaction, request_ids: Sequence[str], wait_for: str | None, avoid: Collection[str]
) -> list[StockChange | ServiceError]:
    _wait(tx, wait_for)
    for _ in range(_ROUNDS):
        recorded = await queries.get_requests(tx, domain.DECIDING_KINDS[LedgerKind.DEDUCT], request_ids)
        skus = {key: [row.sku for row in rows if row.sku is not None] for key, rows in recorded.items()}
        stock, held = await _lock(tx, set(chain.from_iterable(skus.values())), avoid)
        locked = [_first_of(skus.get(request_id, ()), held) for request_id in request_ids]
        free = [request_id for request_id, sku in zip(request_ids, locked, strict=True) if sku is None]
        undone = domain.undo(free, stock, recorded)
        queries.insert_ledger(tx, undone.rows)
        queries.change_stock(tx, undone.deltas)
        try:
            await tx.commit()
        except DuplicateKey:
            # The decrease, or another rollback of it, was written meanwhile; now it can be read.
            continue
        return _merged(locked, undone.outcomes)
    raise RuntimeError("The requests are in the ledger, and cannot be read.")


def _wait(tx: Transaction, sku: str | None) -> None:
    """Wait for one SKU, if for any; who did so in vain hears that it is locked."""
    if sku is not None and not tx.is_rerun:
        queries.lock_stock(tx, sku)


async def _lock(tx: Transaction, skus: set[str], avoid: Collection[str]) -> tuple[dict[str, int], set[str]]:
    """The stock of those SKUs that nobody else holds, locked, and which ones somebody does, or are to be avoided."""
    wanted = skus.difference(avoid)
    stock = await queries.lock_free_stock(tx, wanted) if wanted else {}
    missing = wanted - stock.keys()
    # Both an unknown SKU and a locked one are passed over.
    known = await queries.get_stock(tx, missing) if missing else []
    return stock, skus.intersection(avoid).union(level.sku for level in known)


def _first_of(skus: Iterable[str], held: Collection[str]) -> str | None:
    return min((sku for sku in skus if sku in held), default=None)


def _merged(
    locked: Sequence[str | None], decided: Sequence[StockChange | ServiceError]
) -> list[StockChange | ServiceError]:
    """An outcome for each item: those that were free were decided, in order."""
    outcomes = iter(decided)
    return [next(outcomes) if sku is None else _locked(sku) for sku in locked]


def _locked(sku: str) -> StockLocked:
    return StockLocked(f"Somebody else holds the stock of {sku}.", retry_after_s=1, sku=sku)
