"""Every SQL statement of the inventory service. ``lock_*`` holds its rows until the transaction ends.

What is not awaited is sent with the next statement that is.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple
from datetime import datetime
from typing import Any

from common.contracts.inventory import CreateStock, LedgerEntry, LedgerKind, StockLevel
from common.transaction import Answer, Transaction, utc
from inventory_service.domain import LedgerRow


def insert_stock(tx: Transaction, items: Sequence[CreateStock]) -> Answer:
    """Raises DuplicateKey when it is sent."""
    return tx.defer_values(
        "INSERT INTO inventory (sku, product_id, quantity) VALUES %s",
        [(item.sku, item.product_id, item.quantity) for item in items],
        "(%s, %s, %s)",
    )


def lock_stock(tx: Transaction, sku: str) -> Answer:
    """Lock one SKU as soon as nobody else holds it."""
    return tx.defer("SELECT sku FROM inventory WHERE sku = %s FOR UPDATE", (sku,))


async def lock_free_stock(tx: Transaction, skus: Collection[str]) -> dict[str, int]:
    """The quantity of each SKU that exists and that nobody else holds; rows are locked in SKU order."""
    rows = await tx.fetch_all(
        "SELECT sku, quantity FROM inventory WHERE sku IN %s ORDER BY sku FOR UPDATE SKIP LOCKED", (sorted(skus),)
    )
    return dict(rows)


def change_stock(tx: Transaction, deltas: Mapping[str, int]) -> Answer:
    """Add to each SKU its delta. A row is written even when the delta is 0."""
    if not deltas:
        return Answer()
    cases = " ".join(["WHEN %s THEN %s"] * len(deltas))
    args: list[Any] = [value for pair in deltas.items() for value in pair]
    return tx.defer(
        f"UPDATE inventory SET quantity = quantity + CASE sku {cases} END, version = version + 1 WHERE sku IN %s",
        [*args, list(deltas)],
    )


async def get_stock(tx: Transaction, skus: Collection[str]) -> list[StockLevel]:
    rows = await tx.fetch_all("SELECT product_id, sku, quantity FROM inventory WHERE sku IN %s", (list(skus),))
    return [StockLevel(product_id=product_id, sku=sku, quantity=quantity) for product_id, sku, quantity in rows]


async def get_stock_of_product(tx: Transaction, product_id: str) -> list[StockLevel]:
    rows = await tx.fetch_all(
        "SELECT product_id, sku, quantity FROM inventory WHERE product_id = %s ORDER BY sku", (product_id,)
    )
    return [StockLevel(product_id=product_id, sku=sku, quantity=quantity) for product_id, sku, quantity in rows]


def insert_ledger(tx: Transaction, rows: Sequence[LedgerRow]) -> Answer:
    """Raises DuplicateKey, when it is sent, if one of the requests is in the ledger already."""
    return tx.defer_values(
        "INSERT INTO stock_ledger (request_id, kind, line, sku, delta, quantity, order_id, refusal) VALUES %s",
        [astuple(row) for row in rows],
        "(%s, %s, %s, %s, %s, %s, %s, %s)",
    )


async def get_requests(
    tx: Transaction, kinds: Collection[LedgerKind], request_ids: Collection[str]
) -> dict[str, list[LedgerRow]]:
    """The ledger rows of each request that has any, lines in order."""
    rows = await tx.fetch_all(
        "SELECT request_id, kind, line, sku, delta, quantity, order_id, refusal FROM stock_ledger "
        "WHERE request_id IN %s AND kind IN %s ORDER BY request_id, kind, line",
        (list(request_ids), list(kinds)),
    )
    found: dict[str, list[LedgerRow]] = {}
    for request_id, kind, *rest in rows:
        found.setdefault(request_id, []).append(LedgerRow(request_id, LedgerKind(kind), *rest))
    return found


async def get_ledger(tx: Transaction, sku: str, before: int | None, limit: int) -> list[tuple[int, LedgerEntry]]:
    """The ledger of a SKU, newest first, each entry with its position."""
    rows = await tx.fetch_all(
        "SELECT ledger_id, sku, request_id, kind, delta, quantity, order_id, created_at FROM stock_ledger "
        "WHERE sku = %s AND ledger_id < %s ORDER BY ledger_id DESC LIMIT %s",
        (sku, before if before is not None else 2**63 - 1, limit),
    )
    return [(position, _entry(*rest)) for position, *rest in rows]


async def get_skus(tx: Transaction, after: str, limit: int) -> list[str]:
    """The next SKUs in their order."""
    rows = await tx.fetch_all("SELECT sku FROM inventory WHERE sku > %s ORDER BY sku LIMIT %s", (after, limit))
    return [sku for (sku,) in rows]


def get_older_entry(tx: Transaction, sku: str, newer: int) -> Answer:
    """The position of the ledger entry of a SKU that has so many ``newer`` ones, and the stock after it; or nothing."""
    return tx.defer(
        "SELECT ledger_id, quantity FROM stock_ledger WHERE sku = %s ORDER BY ledger_id DESC LIMIT 1 OFFSET %s",
        (sku, newer),
    )


def get_stock_and_sum(tx: Transaction, sku: str, after: int) -> Answer:
    """The stock of a SKU and the sum of its ledger after a position, as of one moment, which only one statement has."""
    return tx.defer(
        "SELECT quantity, (SELECT COALESCE(SUM(delta), 0) FROM stock_ledger WHERE sku = %s AND ledger_id > %s) "
        "FROM inventory WHERE sku = %s",
        (sku, after, sku),
    )


def _entry(
    sku: str,
    request_id: str,
    kind: str,
    delta: int,
    quantity: int,
    order_id: str | None,
    created_at: datetime,
) -> LedgerEntry:
    return LedgerEntry(
        sku=sku,
        request_id=request_id,
        kind=LedgerKind(kind),
        delta=delta,
        quantity=quantity,
        order_id=order_id,
        created_at=utc(created_at),
    )
