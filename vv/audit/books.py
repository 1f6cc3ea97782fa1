"""Everything that the audit reads: the three databases and the payment gateway, page by page."""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime

from common.database import Database
from common.telemetry import Metrics
from vv.audit.facts import OrphanFacts
from vv.audit.gateway_books import GatewayBooks, GatewayLedger
from vv.audit.order_books import OrderBooks, PaymentBooks
from vv.audit.pages import PAGE, Page, fetch
from vv.audit.stock_books import StockBooks

# Earlier than any row.
EVER = datetime(1970, 1, 1, tzinfo=UTC)
# Recovery should have resumed work at most this long after its lease expired.
OVERDUE_S = 60.0
# For a repair: nothing else waits for locks. A transaction is tried a few times.
_LOCK_WAIT_S = 5

# References without a foreign key: service, table, column, and the table that the column refers to.
_OWNED = (
    ("order", "order_lines", "order_id", "orders"),
    ("order", "order_events", "order_id", "orders"),
    ("inventory", "stock_ledger", "sku", "inventory"),
    ("payment", "payment_events", "order_id", "payments"),
    ("payment", "refunds", "order_id", "payments"),
)


class Books:
    """The orders placed, payments made and SKUs created at or after ``since``, each as pages of facts.

    With ``gateway_url`` (and ``tls``) the ledger of that gateway is read, too. Work is overdue when its lease expired
    more than ``overdue_s`` seconds ago. Reading raises DatabaseUnavailable, or Unavailable for the gateway.
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
        # POST /payments takes any id as an order id, so without ``since`` even the smallest one is read.
        self._first_id = "" if since == EVER else first_order_id(since)
        self._ledger = ledger = GatewayLedger(gateway_url, self._first_id, tls) if gateway_url else None
        self._stock = StockBooks(inventory, order, self._since)
        self.orders = OrderBooks(order, inventory, payment, self._first_id, overdue_s).orders
        self.payments = PaymentBooks(payment, ledger, self._first_id, overdue_s).payments
        self.gateway_entries = GatewayBooks(payment, ledger, self._first_id).entries
        self.stock = self._stock.stock
        self.requests = self._stock.requests

    def close(self) -> None:
        """Delete the local copy of the gateway's ledger."""
        if self._ledger is not None:
            self._ledger.close()

    async def count(self) -> int:
        """Roughly how many rows there are to read, for a progress bar."""
        first, last = await self._stock.ledger_range()
        counts = [
            await self._count("order", "orders WHERE order_id > %s", self._first_id),
            await self._count("payment", "payments WHERE order_id > %s", self._first_id),
            await self._count("inventory", "inventory WHERE created_at >= %s", self._since),
        ]
        return sum(counts) + last - first

    async def orphans(self, only: Sequence[str] | None) -> AsyncIterator[Page]:
        """Orphans: rows that refer to an order, payment or SKU which does not exist."""
        for service, table, column, owners in _OWNED:
            after = "" if service == "inventory" else self._first_id
            sql = (
                f"SELECT s.{column}, o.{column} FROM (SELECT DISTINCT {column} FROM {table} WHERE {column} > %s "
                f"ORDER BY {column} LIMIT %s) s LEFT JOIN {owners} o ON o.{column} = s.{column} ORDER BY s.{column}"
            )
            while rows := await fetch(self.databases[service], sql, [after, PAGE]):
                orphans = [OrphanFacts(table, row[0]) for row in rows if row[1] is None]
                yield Page([orphan for orphan in orphans if only is None or orphan.subject in only], 0)
                after = rows[-1][0]

    async def _count(self, service: str, what: str, least: object) -> int:
        return int((await fetch(self.databases[service], f"SELECT COUNT(*) FROM {what}", [least]))[0][0])


def first_order_id(since: datetime) -> str:
    """A lower bound of the ids of all orders placed at or after ``since``: a UUIDv7 begins with its time."""
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
    """The books of the databases at ``urls``, by service; the other parameters are those of :class:`Books`."""
    async with (
        _database(urls["order"]) as order,
        _database(urls["inventory"]) as inventory,
        _database(urls["payment"]) as payment,
    ):
        books = Books(order, inventory, payment, since, gateway_url=gateway_url, tls=tls, overdue_s=overdue_s)
        with closing(books):
            yield books


def _database(url: str) -> Database:
    # A page is quick to read, but not on a machine under full load.
    return Database(
        url, Metrics("audit"), pool_size_max=2, pool_wait_s=60, lock_wait_s=_LOCK_WAIT_S, transaction_timeout_s=120
    )
