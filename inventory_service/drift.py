"""A light audit that never ends: whether the ledger of a SKU still sums up to its stock, a few SKUs at a time.

It looks at the newest rows of a ledger only, and takes what an older one says of the stock after it for granted, so
that a round costs the same however much was sold. All rows, and all books, are what ``vv audit`` is for.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from common.database import Database
from common.errors import ServiceError
from common.telemetry import log
from common.transaction import Transaction
from inventory_service import queries
from inventory_service.metrics import StockMetrics

# Of each ledger. With the 50 SKUs of a round, by default: 5,000 rows at the most, some milliseconds in memory.
_ROWS_MAX = 100


class DriftWatch:
    """Looks at ``skus_at_once`` SKUs a round, in their order, and begins anew after the last one."""

    def __init__(self, database: Database, skus_at_once: int, metrics: StockMetrics) -> None:
        self._database = database
        self._skus_at_once = skus_at_once
        self._after = ""
        self._drifting: set[str] = set()
        self._metrics = metrics

    async def run(self, interval_s: float) -> NoReturn:
        """Go round for ever, a few SKUs every ``interval_s`` seconds."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.run_once()
            except ServiceError as error:
                log.warning("ledger_not_checked", code=error.code)
            except Exception:
                log.exception("ledger_not_checked")

    async def run_once(self) -> set[str]:
        """Look at the SKUs whose turn it is; those of them that drift."""
        skus = await self._database.read(partial(queries.get_skus, after=self._after, limit=self._skus_at_once))
        # Also when this fails: the others have their turn all the same.
        self._after = skus[-1] if len(skus) == self._skus_at_once else ""
        differences = await self._database.read(partial(_differences, skus=skus))
        drifting = {sku for sku, difference in differences.items() if difference}
        for sku in sorted(drifting - self._drifting):
            log.error("ledger_drifts", sku=sku, stock_minus_ledger=differences[sku])
        self._drifting = self._drifting - differences.keys() | drifting
        self._metrics.drift_rounds.inc()
        self._metrics.checked.inc(len(differences))
        self._metrics.drifting.set(len(self._drifting))
        return drifting


async def _differences(tx: Transaction, *, skus: Sequence[str]) -> dict[str, int]:
    """By how much the stock of each SKU is above what its ledger says."""
    older = [queries.get_older_entry(tx, sku, _ROWS_MAX) for sku in skus]
    await tx.flush()
    found = []
    for sku, entry in zip(skus, older, strict=True):
        # The ledger only grows: what is older stays as it is while the rest is summed up.
        [(ledger_id, stock)] = entry.rows or [(0, 0)]
        found.append((stock, queries.get_stock_and_sum(tx, sku, ledger_id)))
    await tx.flush()
    return {
        sku: int(quantity) - int(stock) - int(total)
        for sku, (stock, sums) in zip(skus, found, strict=True)
        for quantity, total in sums.rows
    }
