"""Orders, with the stock and the payment that belong to each, and payments, with what the gateway did for each."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from common.contracts.inventory import LedgerKind
from common.database import Database
from common.transaction import Row, Transaction
from vv.audit.facts import OrderFacts, PaymentFacts
from vv.audit.gateway_books import GatewayLedger, sandbox_entries
from vv.audit.pages import Page, fetch, pages_of, snapshot

# FORCE INDEX: after a bulk load, until there are statistics, the optimizer takes tables for empty and scans them.
# The columns of Lifecycle; the lease in microseconds from now, by the clock of the database, by which leases expire.
_COMMON = (
    "order_id, status, reason, currency, version, last_seq, TIMESTAMPDIFF(MICROSECOND, NOW(6), lease_until) AS lease"
)
_ORDERS = f"SELECT {_COMMON}, total_amount, user_id FROM orders FORCE INDEX (PRIMARY)"
_PAYMENTS = f"SELECT {_COMMON}, amount, refunded_amount, user_id FROM payments FORCE INDEX (PRIMARY)"


@dataclass(frozen=True)
class OrderBooks:
    order: Database
    inventory: Database
    payment: Database
    first_id: str
    overdue_s: float

    async def orders(self, only: Sequence[str] | None) -> AsyncIterator[Page]:
        async for facts in pages_of("order_id", self.first_id, only, self._read):
            yield Page(facts, len(facts))

    async def _read(self, condition: str, args: list[Any]) -> list[OrderFacts]:
        facts = await snapshot(self.order, partial(_orders, condition=condition, args=args, overdue_s=self.overdue_s))
        if facts:
            # Read after the orders: an order takes stock and money before it records that it has them.
            await self._add_taken(facts)
            await self._add_payments(facts)
        return list(facts.values())

    async def _add_taken(self, facts: dict[str, OrderFacts]) -> None:
        rows = await fetch(
            self.inventory,
            "SELECT request_id, sku, SUM(delta) FROM stock_ledger FORCE INDEX (once_per_request) "
            "WHERE request_id IN %s AND kind IN %s AND sku IS NOT NULL GROUP BY request_id, sku HAVING SUM(delta) <> 0",
            [[fact.deduct_key for fact in facts.values()], [LedgerKind.DEDUCT, LedgerKind.ROLLBACK]],
        )
        for request_id, sku, delta in rows:
            facts[request_id.removesuffix(":deduct")].taken[sku] = -int(delta)

    async def _add_payments(self, facts: dict[str, OrderFacts]) -> None:
        for row in await fetch(self.payment, f"{_PAYMENTS} WHERE order_id IN %s", [list(facts)]):
            facts[row[0]].payment = PaymentFacts(*_lifecycle(row, self.overdue_s), *row[7:])


@dataclass(frozen=True)
class PaymentBooks:
    payment: Database
    gateway: GatewayLedger | None
    first_id: str
    overdue_s: float

    async def payments(self, only: Sequence[str] | None) -> AsyncIterator[Page]:
        async for facts in pages_of("order_id", self.first_id, only, self._read):
            yield Page(facts, len(facts))

    async def _read(self, condition: str, args: list[Any]) -> list[PaymentFacts]:
        read = partial(_payments, condition=condition, args=args, overdue_s=self.overdue_s)
        facts = await snapshot(self.payment, read)
        if facts and self.gateway is not None:
            # Read after the payments: the gateway charges before a payment records it.
            await self.gateway.catch_up()
            for entry in self.gateway.entries_of(list(facts)):
                facts[entry.order_id].gateway.append(entry)
        return list(facts.values())


async def _orders(tx: Transaction, *, condition: str, args: list[Any], overdue_s: float) -> dict[str, OrderFacts]:
    rows = await tx.fetch_all(f"{_ORDERS} WHERE {condition}", args)
    facts = {row[0]: OrderFacts(*_lifecycle(row, overdue_s), *row[7:]) for row in rows}
    if not facts:
        return {}
    lines = tx.defer(
        "SELECT order_id, sku, quantity FROM order_lines FORCE INDEX (PRIMARY) WHERE order_id IN %s", [list(facts)]
    )
    twins = tx.defer(
        "SELECT a.order_id, b.order_id FROM orders a FORCE INDEX (PRIMARY) JOIN orders b ON b.user_id = a.user_id "
        "AND b.idempotency_key = a.idempotency_key AND b.order_id <> a.order_id WHERE a.order_id IN %s",
        [list(facts)],
    )
    events = await _events(tx, "order_events", "problem IS NOT NULL", facts)
    for order_id, seq, status, has_problem in events:
        facts[order_id].events.append((seq, status))
        facts[order_id].has_problem |= bool(has_problem)
    for order_id, sku, quantity in lines.rows:
        facts[order_id].lines[sku] = quantity
    for order_id, twin in twins.rows:
        facts[order_id].twins.append(twin)
    return facts


async def _payments(tx: Transaction, *, condition: str, args: list[Any], overdue_s: float) -> dict[str, PaymentFacts]:
    rows = await tx.fetch_all(f"{_PAYMENTS} WHERE {condition}", args)
    facts = {row[0]: PaymentFacts(*_lifecycle(row, overdue_s), *row[7:]) for row in rows}
    if not facts:
        return {}
    refunds = tx.defer(
        "SELECT order_id, n, amount, done FROM refunds FORCE INDEX (PRIMARY) WHERE order_id IN %s", [list(facts)]
    )
    for order_id, seq, status in await _events(tx, "payment_events", "", facts):
        facts[order_id].events.append((seq, status))
    for order_id, n, amount, done in refunds.rows:
        facts[order_id].refunds[n] = amount
        if not done:
            facts[order_id].open_refunds.append(n)
    for entry in await sandbox_entries(tx, list(facts)):
        facts[entry.order_id].gateway.append(entry)
    return facts


async def _events(tx: Transaction, table: str, more: str, order_ids: Collection[str]) -> list[Row]:
    columns = "order_id, seq, status" + (f", {more}" if more else "")
    return await tx.fetch_all(
        f"SELECT {columns} FROM {table} FORCE INDEX (PRIMARY) WHERE order_id IN %s ORDER BY order_id, seq",
        [list(order_ids)],
    )


def _lifecycle(row: Row, overdue_s: float) -> list[Any]:
    """The fields of Lifecycle, made from the columns of _COMMON."""
    lease_s = None if row[6] is None else row[6] / 1_000_000
    return [*row[:6], lease_s, lease_s is not None and lease_s < -overdue_s]
