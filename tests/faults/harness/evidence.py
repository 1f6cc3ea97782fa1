"""Everything there is to judge a run by: the buyers' log, and what the tables say afterwards."""

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from common.contracts.orders import OrderStatus
from common.contracts.payments import PaymentStatus
from common.database_url import parse_database_url
from common.transaction import utc
from tests.faults.harness.history import Operation

Row = dict[str, Any]


@dataclass
class OrderRecord:
    """An order as its tables have it; ``lines`` maps SKU to quantity, ``held`` likewise from the stock ledger."""

    row: Row
    lines: dict[str, int] = field(default_factory=dict)
    events: list[Row] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)
    payment: Row | None = None

    @property
    def order_id(self) -> str:
        return str(self.row["order_id"])

    @property
    def status(self) -> OrderStatus:
        return OrderStatus(self.row["status"])

    @property
    def kept_money(self) -> int:
        """What was charged and not given back."""
        captured = (PaymentStatus.CAPTURED, PaymentStatus.REFUNDING, PaymentStatus.REFUNDED)
        if self.payment is None or self.payment["status"] not in captured:
            return 0
        return int(self.payment["amount"] - self.payment["refunded_amount"])

    def __str__(self) -> str:
        timeline = [f"{event['seq']} {event['status']}" for event in self.events]
        return f"orders {self.row}; lines {self.lines}; events {timeline}; holds {self.held}; payments {self.payment}"


@dataclass(frozen=True)
class Evidence:
    """``ledger`` has the rows of requests that are not of orders, ``stocked`` what each SKU began with.

    ``cancelled`` are orders that faults have cancelled on behalf of their buyers.
    """

    operations: Sequence[Operation]
    stocked: Mapping[str, int]
    orders: Mapping[str, OrderRecord]
    ledger: Mapping[str, list[Row]]
    refunds: Mapping[str, list[Row]]
    stock: Mapping[str, int]
    payments: Mapping[str, list[Row]]
    cancelled: frozenset[str]

    def orders_of(self, user_id: str) -> list[OrderRecord]:
        return self._by_user.get(user_id, [])

    @property
    def _by_user(self) -> dict[str, list[OrderRecord]]:
        # A frozen dataclass keeps no cached_property; the dictionary is its own.
        cached = self.__dict__.get("_users")
        if cached is None:
            cached = {}
            for order in self.orders.values():
                cached.setdefault(order.row["user_id"], []).append(order)
            self.__dict__["_users"] = cached
        return cached


def collect(
    urls: Mapping[str, str], operations: Sequence[Operation], stocked: Mapping[str, int], cancelled: Iterable[str]
) -> Evidence:
    """Read all tables. Raises pymysql.MySQLError."""
    orders = {row["order_id"]: OrderRecord(row) for row in rows(urls["order"], "SELECT * FROM orders")}
    for row in rows(urls["order"], "SELECT * FROM order_lines"):
        orders[row["order_id"]].lines[row["sku"]] = row["quantity"]
    for row in rows(urls["order"], "SELECT * FROM order_events ORDER BY order_id, seq"):
        orders[row["order_id"]].events.append(row)
    payments: dict[str, list[Row]] = {}
    for row in rows(urls["payment"], "SELECT * FROM payments"):
        payments.setdefault(row["order_id"], []).append(row)
        if row["order_id"] in orders:
            orders[row["order_id"]].payment = row
    refunds: dict[str, list[Row]] = {}
    for row in rows(urls["payment"], "SELECT * FROM refunds WHERE request_id IS NOT NULL"):
        refunds.setdefault(row["request_id"], []).append(row)
    ledger: dict[str, list[Row]] = {}
    for row in rows(urls["inventory"], "SELECT * FROM stock_ledger WHERE kind <> 'create' ORDER BY ledger_id"):
        order = orders.get(row["request_id"].removesuffix(":deduct"))
        if order is None:
            ledger.setdefault(row["request_id"], []).append(row)
        elif row["sku"] is not None:
            order.held[row["sku"]] = order.held.get(row["sku"], 0) - row["delta"]
    stock = {row["sku"]: row["quantity"] for row in rows(urls["inventory"], "SELECT * FROM inventory")}
    return Evidence(operations, stocked, orders, ledger, refunds, stock, payments, frozenset(cancelled))


def rows(url: str, sql: str) -> list[Row]:
    """What a query finds, as dictionaries."""
    address = parse_database_url(url)
    connection = pymysql.connect(
        database=address.pop("db"), autocommit=True, cursorclass=DictCursor, read_timeout=60, **address
    )
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(sql)
        return [{name: _utc(value) for name, value in row.items()} for row in cursor.fetchall()]


def _utc(value: Any) -> Any:
    return utc(value) if isinstance(value, datetime) else value


def unfinished_s(order: OrderRecord, final: Set[OrderStatus]) -> list[float]:
    """How long the order was on its way to a final state each time: when accepted, and when cancelled."""
    spans: list[float] = []
    since: datetime | None = None
    for event in order.events:
        if event["status"] not in final:
            since = since or event["created_at"]
        elif since is not None:
            spans.append((event["created_at"] - since).total_seconds())
            since = None
    return spans
