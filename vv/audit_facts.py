"""What the audit looks at: the facts about each order, payment and SKU, read page by page from three databases."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from common.contracts.orders import OrderStatus
from common.contracts.payments import PaymentStatus
from common.database import Database
from common.telemetry import Metrics
from common.transaction import Row, Transaction

_PAGE = 1_000
# Before anything was written.
EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class StockFacts:
    sku: str
    quantity: int
    ledger_sum: int
    lowest: int | None
    creations: int

    @property
    def subject(self) -> str:
        return self.sku


@dataclass
class OrderFacts:
    """``lines`` is what the order asked for, ``taken`` what the ledger says that it holds; both SKU -> quantity."""

    order_id: str
    status: OrderStatus
    total_amount: int
    currency: str
    has_lease: bool
    lines: dict[str, int] = field(default_factory=dict)
    events: list[tuple[int, OrderStatus]] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)
    payment: "PaymentFacts | None" = None

    @property
    def subject(self) -> str:
        return self.order_id


@dataclass
class PaymentFacts:
    """``refunds`` and ``gateway_refunds`` map the number of a refund to its amount."""

    order_id: str
    status: PaymentStatus
    amount: int
    currency: str
    refunded_amount: int
    events: list[tuple[int, PaymentStatus]] = field(default_factory=list)
    refunds: dict[int, int] = field(default_factory=dict)
    gateway_charges: list[int] = field(default_factory=list)
    gateway_refunds: dict[int, int] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        return self.order_id


class Books:
    """The three databases, read only: the orders placed, payments made and SKUs created at or after ``since``."""

    def __init__(self, order: Database, inventory: Database, payment: Database, since: datetime = EVER) -> None:
        self._order = order
        self._inventory = inventory
        self._payment = payment
        self._since = since.astimezone(UTC).replace(tzinfo=None)
        # A payment may have been made for any id, so that without a limit no id is too small.
        self._first_id = "" if since == EVER else first_order_id(since)

    async def count(self) -> int:
        """How many facts there are to look at, roughly."""
        return sum(
            [
                await _count(self._order, "orders WHERE order_id > %s", self._first_id),
                await _count(self._payment, "payments WHERE order_id > %s", self._first_id),
                await _count(self._inventory, "inventory WHERE created_at >= %s", self._since),
            ]
        )

    async def orders(self) -> AsyncIterator[list[OrderFacts]]:
        async for rows in _pages(
            *(self._order, self._first_id),
            "SELECT order_id, status, total_amount, currency, lease_until IS NOT NULL FROM orders "
            "WHERE order_id > %s ORDER BY order_id LIMIT %s",
        ):
            facts = {row[0]: OrderFacts(row[0], OrderStatus(row[1]), row[2], row[3], bool(row[4])) for row in rows}
            await self._add_lines_and_events(facts)
            await self._add_taken(facts)
            await self._add_payments(facts)
            yield list(facts.values())

    async def payments(self) -> AsyncIterator[list[PaymentFacts]]:
        async for rows in _pages(
            *(self._payment, self._first_id),
            "SELECT order_id, status, amount, currency, refunded_amount FROM payments "
            "WHERE order_id > %s ORDER BY order_id LIMIT %s",
        ):
            facts = {row[0]: _payment(row) for row in rows}
            await self._add_payment_rows(facts)
            yield list(facts.values())

    async def stock(self) -> AsyncIterator[list[StockFacts]]:
        # One statement, so that stock and ledger are read as of the same moment.
        async for rows in _pages(
            *(self._inventory, ""),
            "SELECT i.sku, i.quantity, COALESCE(SUM(l.delta), 0), MIN(l.quantity), COALESCE(SUM(l.kind = 'create'), 0) "
            "FROM (SELECT sku, quantity FROM inventory WHERE sku > %s AND created_at >= %s ORDER BY sku LIMIT %s) i "
            "LEFT JOIN stock_ledger l ON l.sku = i.sku GROUP BY i.sku, i.quantity ORDER BY i.sku",
            self._since,
        ):
            yield [StockFacts(sku, quantity, int(total), low, int(new)) for sku, quantity, total, low, new in rows]

    async def unowned_gateway_entries(self) -> list[str]:
        rows = await _fetch(
            self._payment,
            "SELECT g.gateway_key, g.kind, g.amount FROM sandbox_gateway g "
            "LEFT JOIN payments p ON p.order_id = SUBSTRING_INDEX(g.charge_key, ':', 1) "
            "WHERE p.order_id IS NULL AND g.approved AND g.gateway_key > %s ORDER BY g.entry_id",
            [self._first_id],
        )
        return [f"{kind} {key} of {amount}" for key, kind, amount in rows]

    async def _add_lines_and_events(self, facts: dict[str, OrderFacts]) -> None:
        ids = list(facts)
        for order_id, sku, quantity in await _fetch(
            self._order, "SELECT order_id, sku, quantity FROM order_lines WHERE order_id IN %s", [ids]
        ):
            facts[order_id].lines[sku] = quantity
        for order_id, seq, status in await _fetch(
            self._order,
            "SELECT order_id, seq, status FROM order_events WHERE order_id IN %s ORDER BY order_id, seq",
            [ids],
        ):
            facts[order_id].events.append((seq, OrderStatus(status)))

    async def _add_taken(self, facts: dict[str, OrderFacts]) -> None:
        for request_id, sku, delta in await _fetch(
            self._inventory,
            "SELECT request_id, sku, SUM(delta) FROM stock_ledger WHERE request_id IN %s "
            "AND kind IN ('deduct', 'rollback') AND sku IS NOT NULL GROUP BY request_id, sku HAVING SUM(delta) <> 0",
            [[f"{order_id}:deduct" for order_id in facts]],
        ):
            facts[request_id.removesuffix(":deduct")].taken[sku] = -int(delta)

    async def _add_payments(self, facts: dict[str, OrderFacts]) -> None:
        for row in await _fetch(
            self._payment,
            "SELECT order_id, status, amount, currency, refunded_amount FROM payments WHERE order_id IN %s",
            [list(facts)],
        ):
            facts[row[0]].payment = _payment(row)

    async def _add_payment_rows(self, facts: dict[str, PaymentFacts]) -> None:
        ids = list(facts)
        for order_id, seq, status in await _fetch(
            self._payment,
            "SELECT order_id, seq, status FROM payment_events WHERE order_id IN %s ORDER BY order_id, seq",
            [ids],
        ):
            facts[order_id].events.append((seq, PaymentStatus(status)))
        for order_id, n, amount in await _fetch(
            self._payment, "SELECT order_id, n, amount FROM refunds WHERE order_id IN %s", [ids]
        ):
            facts[order_id].refunds[n] = amount
        charges = await _fetch(
            self._payment,
            "SELECT charge_key, kind, gateway_key, amount FROM sandbox_gateway "
            "WHERE approved AND gateway_key BETWEEN %s AND %s",
            # A key is an order id and what follows a colon; the semicolon comes right after the colon.
            [ids[0], f"{ids[-1]};"],
        )
        for charge_key, kind, gateway_key, amount in charges:
            payment = facts.get(charge_key.split(":")[0])
            if payment is None:
                continue
            if kind == "charge":
                payment.gateway_charges.append(amount)
            else:
                payment.gateway_refunds[int(gateway_key.rsplit(":", 1)[1])] = amount


def _payment(row: Row) -> PaymentFacts:
    return PaymentFacts(row[0], PaymentStatus(row[1]), *row[2:5])


async def _fetch(database: Database, sql: str, args: list[Any]) -> list[Row]:
    async def read(tx: Transaction) -> list[Row]:
        return await tx.fetch_all(sql, args)

    return await database.read(read)


async def _count(database: Database, what: str, least: object) -> int:
    return int((await _fetch(database, f"SELECT COUNT(*) FROM {what}", [least]))[0][0])


async def _pages(database: Database, after: str, sql: str, *args: object) -> AsyncIterator[list[Row]]:
    """``sql`` takes the key after which a page starts (its first column), ``args``, and the size of a page."""
    while rows := await _fetch(database, sql, [after, *args, _PAGE]):
        yield rows
        after = rows[-1][0]


def first_order_id(since: datetime) -> str:
    """What is less than the id of every order placed at or after ``since``: a UUIDv7 begins with milliseconds."""
    milliseconds = f"{max(0, int(since.timestamp() * 1000)):012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-"


@asynccontextmanager
async def open_books(urls: Mapping[str, str], since: datetime = EVER) -> AsyncIterator[Books]:
    """The books of the databases at ``urls``, by service."""
    async with (
        _database(urls["order"]) as order,
        _database(urls["inventory"]) as inventory,
        _database(urls["payment"]) as payment,
    ):
        yield Books(order, inventory, payment, since)


def _database(url: str) -> Database:
    # A page of the ledger of a hot SKU is one long read.
    return Database(url, Metrics("audit"), pool_size_max=2, pool_wait_s=60, lock_wait_s=5, transaction_timeout_s=600)
