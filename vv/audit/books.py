"""What the audit looks at: the books of the three databases and of the gateway, read only, page by page."""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime

from common.database import Database
from common.telemetry import Metrics
from vv.audit.facts import StrayFacts
from vv.audit.gateway_books import GatewayBooks, GatewayLedger
from vv.audit.order_books import OrderBooks, PaymentBooks
from vv.audit.pages import PAGE, Page, fetch
from vv.audit.stock_books import StockBooks

# Before anything was written.
EVER = datetime(1970, 1, 1, tzinfo=UTC)
# Seconds after which work whose lease has run out should have been taken up.
OVERDUE_S = 60.0

# Tables without a foreign key: service, table, its column, and the table that has what the column names.
_OWNED = (
    ("order", "order_lines", "order_id", "orders"),
    ("order", "order_events", "order_id", "orders"),
    ("inventory", "stock_ledger", "sku", "inventory"),
    ("payment", "payment_events", "order_id", "payments"),
    ("payment", "refunds", "order_id", "payments"),
)


class Books:
    """The orders placed, payments made and SKUs created at or after ``since``, each as pages of facts.

    With ``gateway_url`` (and ``tls``) the ledger of the gateway there counts, too. Work is overdue when its lease ran
    out more than ``overdue_s`` seconds ago. Whoever reads gets DatabaseUnavailable, or Unavailable for the gateway.
    """

    def __init__(
        self,
        order: Database,
        inventory: Database,
        payment: Database,
        since: datetime = EVER,
        *,
        gateway_url: str | None = None,
        tls: ssl.SSLContext | None = None,
        overdue_s: float = OVERDUE_S,
    ) -> None:
        self.databases = {"order": order, "inventory": inventory, "payment": payment}
        self.gateway_url = gateway_url
        self._since = since.astimezone(UTC).replace(tzinfo=None)
        # A payment may have been made for any id, so that without a limit no id is too small.
        self._first_id = "" if since == EVER else first_order_id(since)
        self._ledger = ledger = GatewayLedger(gateway_url, self._first_id, tls) if gateway_url else None
        self._stock = StockBooks(inventory, order, self._since)
        self.orders = OrderBooks(order, inventory, payment, self._first_id, overdue_s).orders
        self.payments = PaymentBooks(payment, ledger, self._first_id, overdue_s).payments
        self.gateway_entries = GatewayBooks(payment, ledger, self._first_id).entries
        self.stock = self._stock.stock
        self.requests = self._stock.requests

    def close(self) -> None:
        """Give back what is kept of the gateway's ledger."""
        if self._ledger is not None:
            self._ledger.close()

    async def count(self) -> int:
        """How many rows there are to look at, roughly."""
        first, last = await self._stock.ledger_range()
        counts = [
            await self._count("order", "orders WHERE order_id > %s", self._first_id),
            await self._count("payment", "payments WHERE order_id > %s", self._first_id),
            await self._count("inventory", "inventory WHERE created_at >= %s", self._since),
        ]
        return sum(counts) + last - first

    async def strays(self, only: Sequence[str] | None) -> AsyncIterator[Page]:
        """Rows that belong to nothing."""
        for service, table, column, owners in _OWNED:
            after = "" if service == "inventory" else self._first_id
            sql = (
                f"SELECT s.{column}, o.{column} FROM (SELECT DISTINCT {column} FROM {table} WHERE {column} > %s "
                f"ORDER BY {column} LIMIT %s) s LEFT JOIN {owners} o ON o.{column} = s.{column} ORDER BY s.{column}"
            )
            while rows := await fetch(self.databases[service], sql, [after, PAGE]):
                strays = [StrayFacts(table, row[0]) for row in rows if row[1] is None]
                yield Page([stray for stray in strays if only is None or stray.subject in only], 0)
                after = rows[-1][0]

    async def _count(self, service: str, what: str, least: object) -> int:
        return int((await fetch(self.databases[service], f"SELECT COUNT(*) FROM {what}", [least]))[0][0])


def first_order_id(since: datetime) -> str:
    """What is less than the id of every order placed at or after ``since``: a UUIDv7 begins with milliseconds."""
    milliseconds = f"{max(0, int(since.timestamp() * 1000)):012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-"


@asynccontextmanager
async def open_books(
    urls: Mapping[str, str],
    since: datetime = EVER,
    *,
    gateway_url: str | None = None,
    tls: ssl.SSLContext | None = None,
    overdue_s: float = OVERDUE_S,
) -> AsyncIterator[Books]:
    """The books of the databases at ``urls``, by service; the rest as of :class:`Books`."""
    async with (
        _database(urls["order"]) as order,
        _database(urls["inventory"]) as inventory,
        _database(urls["payment"]) as payment,
    ):
        books = Books(order, inventory, payment, since, gateway_url=gateway_url, tls=tls, overdue_s=overdue_s)
        with closing(books):
            yield books


def _database(url: str) -> Database:
    # No page takes long; a machine under full load may.
    return Database(url, Metrics("audit"), pool_size_max=2, pool_wait_s=60, lock_wait_s=5, transaction_timeout_s=120)
