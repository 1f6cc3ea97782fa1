"""What the payment gateway did: the table of the sandbox, and the ledger of a gateway process, fetched by HTTP."""

import sqlite3
import ssl
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from common.database import Database
from common.transaction import Row, Transaction
from vv.audit.facts import GatewayEntry, GatewayFacts
from vv.audit.pages import CHOSEN_MAX, PAGE, Page, chunks, fetch
from vv.errors import Unavailable

_CALL_WITHIN_S = 30.0
# Without declined charges, by which no money moved.
_SANDBOX = (
    "SELECT gateway_key, kind, charge_key, amount, currency FROM sandbox_gateway FORCE INDEX (once_per_key) "
    "WHERE (approved OR kind <> 'charge')"
)


async def sandbox_entries(tx: Transaction, order_ids: Sequence[str]) -> list[GatewayEntry]:
    """What the sandbox did for these payments; ``order_ids`` must be sorted."""
    # A key is ``ORDER_ID:…``, and ';' is the character after ':', which makes this a range of all keys of an order.
    ranges = [(order_ids[0], f"{order_ids[-1]};")]
    if len(order_ids) <= CHOSEN_MAX:
        ranges = [(f"{order_id}:", f"{order_id};") for order_id in order_ids]
    where = " OR ".join(["gateway_key BETWEEN %s AND %s"] * len(ranges))
    args = [bound for pair in ranges for bound in pair]
    rows = await tx.fetch_all(f"{_SANDBOX} AND ({where}) ORDER BY gateway_key", args)
    return [entry for entry in _entries(rows) if entry.order_id in set(order_ids)]


class GatewayLedger:
    """A copy of the ledger of the gateway at ``url``, in a temporary file, indexed by order.

    ``tls`` is for connections to the gateway. Only entries of orders with an id greater than ``first_id`` are kept.
    """

    def __init__(self, url: str, first_id: str, tls: ssl.SSLContext | None = None) -> None:
        self._url = url.rstrip("/")
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._first_id = first_id
        self._after = 0
        # An empty name is a temporary file, which SQLite deletes when the connection is closed.
        self._file = sqlite3.connect("")
        self._file.execute(
            "CREATE TABLE entries (n INTEGER PRIMARY KEY, order_id TEXT, key TEXT, kind TEXT, charge_key TEXT, "
            "amount INTEGER, currency TEXT)"
        )
        self._file.execute("CREATE INDEX by_order ON entries (order_id)")
        self._file.execute("CREATE INDEX by_key ON entries (key)")

    def close(self) -> None:
        self._file.close()

    async def catch_up(self) -> None:
        """Fetch the entries that are new since the last call. Raises Unavailable."""
        timeout = aiohttp.ClientTimeout(total=_CALL_WITHIN_S)
        try:
            connector = aiohttp.TCPConnector(ssl=self._tls)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                while not await self._fetch(session):
                    pass
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            why = str(error) or type(error).__name__
            raise Unavailable(
                f"The ledger of the gateway at {self._url} could not be read ({why}); check --gateway-url."
            ) from error

    async def _fetch(self, session: aiohttp.ClientSession) -> bool:
        """Fetch a page; True if it was the last one."""
        query = {"after": self._after, "limit": PAGE}
        async with session.get(f"{self._url}/ledger", params=query, raise_for_status=True) as reply:
            page = await reply.json()
        for entry in page["entries"]:
            self._after = entry["n"]
            self._keep(entry)
        return page["next"] is None

    def _keep(self, entry: dict[str, Any]) -> None:
        kept = GatewayEntry(*(entry[name] for name in ("key", "kind", "charge_key", "amount", "currency")))
        if entry["status"] != "declined" and kept.order_id > self._first_id:
            values = (entry["n"], kept.order_id, kept.key, kept.kind, kept.charge_key, kept.amount, kept.currency)
            self._file.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def entries_of(self, order_ids: Collection[str]) -> list[GatewayEntry]:
        return self._find("order_id", order_ids)

    def entries_with(self, keys: Collection[str]) -> list[GatewayEntry]:
        return self._find("key", keys)

    def _find(self, column: str, values: Collection[str]) -> list[GatewayEntry]:
        marks = ", ".join("?" * len(values))
        return _entries(
            self._file.execute(
                f"SELECT key, kind, charge_key, amount, currency FROM entries WHERE {column} IN ({marks}) ORDER BY n",
                list(values),
            )
        )

    def pages(self) -> Iterable[list[GatewayEntry]]:
        """All entries fetched so far, oldest first."""
        after = 0
        while rows := self._file.execute(
            "SELECT key, kind, charge_key, amount, currency, n FROM entries WHERE n > ? ORDER BY n LIMIT ?",
            (after, PAGE),
        ).fetchall():
            yield _entries(row[:5] for row in rows)
            after = rows[-1][5]


@dataclass(frozen=True)
class GatewayBooks:
    """Every entry of the gateway, and whether it belongs to a payment."""

    payment: Database
    ledger: GatewayLedger | None
    first_id: str

    async def entries(self, only: Sequence[str] | None) -> AsyncIterator[Page]:
        async for entries in self._sandbox(only):
            yield await self._with_owners(entries)
        if self.ledger is None:
            return
        await self.ledger.catch_up()
        for entries in self.ledger.pages() if only is None else map(self.ledger.entries_with, chunks(only)):
            yield await self._with_owners(entries)

    async def _sandbox(self, only: Sequence[str] | None) -> AsyncIterator[list[GatewayEntry]]:
        for chunk in chunks(only or []):
            yield _entries(await fetch(self.payment, f"{_SANDBOX} AND gateway_key IN %s", [chunk]))
        after = self.first_id
        page_sql = f"{_SANDBOX} AND gateway_key > %s ORDER BY gateway_key LIMIT %s"
        while only is None and (rows := await fetch(self.payment, page_sql, [after, PAGE])):
            yield _entries(rows)
            after = rows[-1][0]

    async def _with_owners(self, entries: Sequence[GatewayEntry]) -> Page:
        # Read after the entries: a payment is committed before the gateway is called.
        order_ids = [entry.order_id for entry in entries] or [""]
        rows = await fetch(
            self.payment, "SELECT order_id FROM payments FORCE INDEX (PRIMARY) WHERE order_id IN %s", [order_ids]
        )
        owners = {row[0] for row in rows}
        return Page([GatewayFacts(entry, entry.order_id in owners) for entry in entries], 0)


def _entries(rows: Iterable[Row]) -> list[GatewayEntry]:
    return [GatewayEntry(*row) for row in rows]
