"""Stock: each SKU with its ledger, and the requests that took stock for an order."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from common.contracts.inventory import LedgerKind
from common.database import Database
from common.transaction import Row
from vv.audit.facts import RequestFacts, StockFacts
from vv.audit.pages import PAGE, Page, chunks, fetch, pages_of

# The request id of a correction starts with this: a ledger row of delta 0, which settles all rows before it.
CORRECTION = "vv-audit:"
_LEDGER_PAGE = 5_000
# A time is when the INSERT began, an id is assigned while it runs: a row may be older than the one before it.
_OUT_OF_ORDER_AT_MOST = timedelta(minutes=1)
_ROWS = "SELECT sku, ledger_id, kind, delta, quantity, request_id FROM stock_ledger FORCE INDEX (by_sku)"


@dataclass(frozen=True)
class StockBooks:
    inventory: Database
    order: Database
    since: datetime

    async def stock(self, only: Sequence[str] | None) -> AsyncIterator[Page]:
        async for facts in pages_of("i.sku", "", only, self._read_stock):
            yield Page(facts, len(facts))

    async def _read_stock(self, condition: str, args: list[Any]) -> list[StockFacts]:
        # One statement, so that quantity and last row are of the same moment. Rows up to that one never change, and
        # later rows of the SKU have larger ids, as rows are inserted while the SKU is locked.
        rows = await fetch(
            self.inventory,
            "SELECT i.sku, i.quantity, COALESCE((SELECT MAX(l.ledger_id) FROM stock_ledger l WHERE l.sku = i.sku), 0) "
            f"FROM inventory i WHERE i.created_at >= %s AND {condition}",
            [self.since, *args],
        )
        facts = {sku: StockFacts(sku, quantity, last) for sku, quantity, last in rows}
        async for page in self._ledger(list(facts)):
            for sku, *row in page:
                _add(facts[sku], *row)
        return list(facts.values())

    async def _ledger(self, skus: Sequence[str]) -> AsyncIterator[list[Row]]:
        """The ledger rows of SKUs, ordered by SKU and id; ``skus`` must be sorted."""
        sku, ledger_id = "", 0
        while True:
            # IN () is a syntax error, and no SKU is the empty string.
            later = [other for other in skus if other > sku] or [""]
            page = await fetch(
                self.inventory,
                f"({_ROWS} WHERE sku = %s AND ledger_id > %s ORDER BY ledger_id LIMIT %s) UNION ALL "
                f"({_ROWS} WHERE sku IN %s ORDER BY sku, ledger_id LIMIT %s) ORDER BY sku, ledger_id LIMIT %s",
                [sku, ledger_id, _LEDGER_PAGE, later, _LEDGER_PAGE, _LEDGER_PAGE],
            )
            yield page
            if len(page) < _LEDGER_PAGE:
                return
            sku, ledger_id = page[-1][:2]

    async def requests(self, only: Sequence[str] | None) -> AsyncIterator[Page]:
        """The requests that were rolled back, and those whose request id does not fit the order that they name."""
        if only is not None:
            for chunk in chunks(sorted(only)):
                yield Page(await self._read_requests(chunk), 0)
            return
        first, last = await self.ledger_range()
        for after in range(first, last, PAGE):
            until = min(after + PAGE, last)
            rows = await fetch(
                self.inventory,
                "SELECT request_id, order_id, kind FROM stock_ledger FORCE INDEX (PRIMARY) "
                "WHERE ledger_id > %s AND ledger_id <= %s AND delta <> 0 AND (order_id IS NOT NULL OR kind = %s)",
                [after, until, LedgerKind.ROLLBACK],
            )
            existing = await self._existing({order_id for _, order_id, _ in rows if order_id})
            odd = {
                request_id
                for request_id, order_id, kind in rows
                if kind == LedgerKind.ROLLBACK or (order_id in existing) != (request_id == f"{order_id}:deduct")
            }
            yield Page(await self._read_requests(odd), until - after)

    async def ledger_range(self) -> tuple[int, int]:
        """The ids of the last ledger row before ``since`` and of the very last one."""
        [[last]] = await fetch(self.inventory, "SELECT COALESCE(MAX(ledger_id), 0) FROM stock_ledger", [])
        low, high = 0, int(last)
        while low < high:
            middle = (low + high) // 2
            row = await fetch(
                self.inventory,
                "SELECT created_at FROM stock_ledger WHERE ledger_id > %s ORDER BY ledger_id LIMIT 1",
                [middle],
            )
            if row and row[0][0] + _OUT_OF_ORDER_AT_MOST < self.since:
                low = middle + 1
            else:
                high = middle
        return low, int(last)

    async def _read_requests(self, request_ids: Collection[str]) -> list[RequestFacts]:
        rows = await fetch(
            self.inventory,
            "SELECT request_id, order_id, kind, sku, delta FROM stock_ledger FORCE INDEX (once_per_request) "
            "WHERE request_id IN %s AND kind IN %s AND sku IS NOT NULL ORDER BY request_id, kind, line",
            [list(request_ids) or [""], [LedgerKind.DEDUCT, LedgerKind.ROLLBACK]],
        )
        existing = await self._existing({order_id for _, order_id, *_ in rows if order_id})
        facts: dict[str, RequestFacts] = {}
        for request_id, order_id, kind, sku, delta in rows:
            fact = facts.setdefault(request_id, RequestFacts(request_id, order_id, order_id in existing))
            if kind == LedgerKind.DEDUCT:
                fact.taken[sku] = fact.taken.get(sku, 0) - delta
            else:
                fact.given_back[sku] = fact.given_back.get(sku, 0) + delta
        return list(facts.values())

    async def _existing(self, order_ids: Collection[str]) -> set[str]:
        statement = partial(fetch, self.order, "SELECT order_id FROM orders FORCE INDEX (PRIMARY) WHERE order_id IN %s")
        return {row[0] for row in await statement([list(order_ids) or [""]])}


def _add(fact: StockFacts, ledger_id: int, kind: str, delta: int, quantity: int, request_id: str) -> None:
    """Add a ledger row to the totals, unless it was written after the quantity had been read."""
    if ledger_id > fact.last_ledger_id:
        return
    fact.first_kind = fact.first_kind or kind
    fact.ledger_sum += delta
    fact.creations += kind == LedgerKind.CREATE
    if request_id.startswith(CORRECTION) and delta == 0:
        fact.lowest, fact.unlike, fact.first_unlike = fact.ledger_sum, 0, None
    fact.lowest = min(fact.lowest, fact.ledger_sum)
    if quantity != fact.ledger_sum:
        fact.unlike += 1
        fact.first_unlike = (
            fact.first_unlike or f"row {ledger_id} ({request_id}) says {quantity}, not {fact.ledger_sum}"
        )
