"""What a load is put on: how its stock is made, and how one knows that what it answered is true."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

import aiohttp

from common.clients import AsyncInventoryClient
from common.errors import DatabaseUnavailable, ServiceError
from vv.audit import audit, open_books
from vv.audit.books import first_order_id
from vv.bench.load import Orders, Result
from vv.bench.plan import FLOOR
from vv.bench.stacks import Stacks
from vv.bench.tally import Tally, settled_tally
from vv.errors import Unavailable

UNITS = 1_000_000_000
# Orders that were on their way when the load ended, the last ones being finished by recovery (a lease is 12 s).
_SETTLED_WITHIN_S = 60.0
_QUIET_S = 0.5
_CREATIONS_AT_ONCE = 64


class Target(Protocol):
    """A server under load."""

    url: str
    """Where orders are posted."""
    checked: str
    """How it is known that what it answered is true, in a sentence."""

    def pids(self) -> Mapping[str, int]:
        """Its processes, by what they are; none of a server that is not ours."""

    async def prepare(self, orders: Orders) -> None:
        """Create the stock. Raises Unavailable."""

    async def settled(self, orders: Orders, since: datetime) -> Tally | None:
        """Wait until nothing of these orders, which were sent after ``since``, is on its way any more.

        What its database says of them, if there is any to look into. Raises Unavailable.
        """

    async def why_not(
        self, orders: Orders, result: Result, tally: Tally | None, since: datetime, in_flight: int
    ) -> str | None:
        """Why the result of a load that has settled is none, or None. Orders without a reply may be ``in_flight``."""


class Floor:
    """The handler that does nothing, so that there is nothing to look up."""

    checked = "The empty handler answered with success."

    def __init__(self, stacks: Stacks) -> None:
        self._stacks = stacks
        self.url = stacks.floor_url

    def pids(self) -> Mapping[str, int]:
        return {FLOOR: self._stacks.floor_pid}

    async def prepare(self, orders: Orders) -> None:
        pass

    async def settled(self, orders: Orders, since: datetime) -> Tally | None:
        return None

    async def why_not(
        self, orders: Orders, result: Result, tally: Tally | None, since: datetime, in_flight: int
    ) -> str | None:
        return None


class OwnStack:
    """A stack of ours: its orders are counted in its database, and its books are audited."""

    checked = "After each run its orders were counted in the database, and its books were audited."

    def __init__(self, stacks: Stacks, name: str) -> None:
        self._stacks = stacks
        self._name = name
        self._urls = stacks.stacks[name].urls
        self._databases = stacks.databases(name)
        self.url = f"{self._urls['order']}/orders"

    def pids(self) -> Mapping[str, int]:
        return self._stacks.pids(self._name)

    async def prepare(self, orders: Orders) -> None:
        slots = asyncio.Semaphore(_CREATIONS_AT_ONCE)
        try:
            async with AsyncInventoryClient(self._urls["inventory"], timeout_s=60) as inventory:

                async def create(sku: str) -> None:
                    async with slots:
                        await inventory.create(product_id="bench", sku=sku, quantity=UNITS)

                await asyncio.gather(*map(create, orders.sku_names))
        except ServiceError as error:
            raise Unavailable(f"The stock for a run could not be created: {error.detail}") from error

    async def settled(self, orders: Orders, since: datetime) -> Tally | None:
        url = self._databases.service_urls["order"]
        try:
            return await settled_tally(url, orders.run, first_order_id(since), _SETTLED_WITHIN_S)
        except DatabaseUnavailable as error:
            raise Unavailable(f"The database of the stack {self._name} cannot be read: {error.detail}") from error

    async def why_not(
        self, orders: Orders, result: Result, tally: Tally | None, since: datetime, in_flight: int
    ) -> str | None:
        assert tally is not None
        if tally.completed != tally.orders:
            return f"of {tally.orders} orders {tally.completed} were completed"
        if tally.taken_up:
            return f"{tally.taken_up} orders were finished by recovery, not by their request"
        if not 0 <= tally.completed - result.replies <= in_flight:
            return f"{result.replies} orders were answered, {tally.completed} are in the database"
        try:
            async with open_books(self._databases.service_urls, since) as books:
                report = await audit(books)
        except DatabaseUnavailable as error:
            return f"the books could not be read: {error.detail}"
        if report.violations:
            first = report.violations[0]
            return f"{len(report.violations)} violations in the books, first {first.invariant} of {first.subject}"
        return None


class Elsewhere:
    """Any server that speaks the contract; there is no looking into its database.

    :param inventory_url: where stock is created and looked up; without it the SKU must be there, and nothing is checked
    """

    def __init__(self, order_url: str, inventory_url: str | None) -> None:
        self.url = f"{order_url.rstrip('/')}/orders"
        self._inventory_url = inventory_url.rstrip("/") if inventory_url else None
        self.checked = (
            "The stock went down by what was answered with success; its database was not looked into."
            if inventory_url
            else "Nothing but the status of the replies was checked, for want of --inventory-url."
        )
        # At the end of the latest load, and by what that load had lowered it.
        self._units_left = 0
        self._sold = 0

    def pids(self) -> Mapping[str, int]:
        return {}

    async def prepare(self, orders: Orders) -> None:
        for sku in orders.sku_names if self._inventory_url else ():
            await self._call("POST", "/inventory/create", {"product_id": "bench", "sku": sku, "quantity": UNITS})

    async def settled(self, orders: Orders, since: datetime) -> Tally | None:
        if self._inventory_url is None:
            await asyncio.sleep(_QUIET_S)
            return None
        units = await self._units(orders)
        while True:
            await asyncio.sleep(_QUIET_S)
            before, units = units, await self._units(orders)
            if before == units:
                self._sold = self._units_left - units
                self._units_left = units
                return None

    async def why_not(
        self, orders: Orders, result: Result, tally: Tally | None, since: datetime, in_flight: int
    ) -> str | None:
        if self._inventory_url is None or 0 <= self._sold - result.replies * orders.lines <= in_flight * orders.lines:
            return None
        return f"{result.replies} orders of {orders.lines} units were answered, the stock went down by {self._sold}"

    async def _units(self, orders: Orders) -> int:
        """What is left of all SKUs."""
        return sum([await self._units_of(sku) for sku in orders.sku_names])

    async def _units_of(self, sku: str) -> int:
        answer = await self._call("GET", f"/inventory/sku?sku={sku}")
        level = answer[0] if isinstance(answer, list) and answer else answer
        quantity = level.get("quantity") if isinstance(level, dict) else None
        if not isinstance(quantity, int):
            raise Unavailable(f"{self._inventory_url}/inventory/sku answers without a quantity: {str(answer)[:200]}")
        return quantity

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        url = f"{self._inventory_url}{path}"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
                session.request(method, url, json=body) as reply,
            ):
                if not reply.ok:
                    raise Unavailable(f"{method} {url} was answered with {reply.status}: {(await reply.text())[:300]}")
                return await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"{method} {url} failed: {str(error) or type(error).__name__}.") from error
