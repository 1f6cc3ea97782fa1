"""Every process of the shop is replaced while buyers shop, and no order fails."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from tests.conftest import Audit
from tests.front_door import FrontDoorProcess
from tests.processes import ServiceProcess
from tests.service_address import ServiceAddress
from vv import certs
from vv.databases import Databases

SERVICES = ("inventory", "payment", "order")
BUYERS_A_SECOND = 40
# As long as it takes to leave the endpoints, and for those who have a connection to be told to hang up.
DRAIN_DELAY_S = 1.0
LEAVES_THE_ENDPOINTS_AFTER_S = 0.3


class Fleet:
    """Two processes of each service, and one address for both."""

    def __init__(self, databases: Databases, folder: Path) -> None:
        self.addresses = {name: ServiceAddress() for name in SERVICES}
        self.processes: dict[str, list[ServiceProcess]] = {name: [] for name in SERVICES}
        self._environment = {f"{name.upper()}_DATABASE_URL": url for name, url in databases.service_urls.items()}
        self._environment |= {f"{name.upper()}_DRAIN_DELAY_S": str(DRAIN_DELAY_S) for name in SERVICES}
        self._folder = folder

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for address in self.addresses.values():
                await stack.enter_async_context(address.open())
            self._environment |= {f"ORDER_{name.upper()}_URL": self.addresses[name].url for name in SERVICES[:2]}
            stack.callback(self._kill)
            await asyncio.gather(*(self._start(name) for name in (*SERVICES, *SERVICES)))
            yield

    async def replace(self, name: str) -> None:
        """As a roll-out does it: another one first, then SIGTERM, of which the endpoints hear a little later."""
        old = self.processes[name].pop(0)
        await self._start(name)
        old.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(LEAVES_THE_ENDPOINTS_AFTER_S)
        self.addresses[name].endpoints.discard(old.port)
        assert await asyncio.to_thread(old.wait_for_end, 30) == 0

    async def _start(self, name: str) -> None:
        process = ServiceProcess(name, self._environment, self._folder / f"{name}-{uuid4().hex[:4]}.log")
        self.processes[name].append(process)
        await asyncio.to_thread(process.start)
        self.addresses[name].endpoints.add(process.port)

    def _kill(self) -> None:
        for process in (process for both in self.processes.values() for process in both):
            if process._process is not None and process.process.poll() is None:
                process.kill()


@pytest.fixture
async def fleet(migrated: Databases, tmp_path: Path) -> AsyncIterator[Fleet]:
    made = Fleet(migrated, tmp_path)
    async with made.running():
        yield made


@pytest.fixture
async def door(fleet: Fleet, tmp_path: Path) -> AsyncIterator[FrontDoorProcess]:
    """nginx, as deploy/kubernetes has it: it knows one address for each service."""
    certs.ensure(tmp_path / "certs")
    (tmp_path / "door").mkdir()
    upstreams = {name: address.url for name, address in fleet.addresses.items()}
    process = FrontDoorProcess(tmp_path / "door", upstreams, tmp_path / "certs")
    await asyncio.to_thread(process.start)
    yield process
    await asyncio.to_thread(process.stop)


class Buyers:
    """They come one after the other, whether those before them are served or not, and none of them asks twice."""

    def __init__(self, session: aiohttp.ClientSession, sku: str) -> None:
        self._session = session
        self._sku = sku
        self._tasks: list[asyncio.Task[tuple[int, str]]] = []
        self._coming: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Buyers":
        self._coming = asyncio.create_task(self._come())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._coming is not None
        self._coming.cancel()

    async def answers(self) -> Counter[tuple[int, str]]:
        return Counter(await asyncio.gather(*self._tasks))

    async def _come(self) -> None:
        while True:
            self._tasks.append(asyncio.create_task(self._buy()))
            await asyncio.sleep(1 / BUYERS_A_SECOND)

    async def _buy(self) -> tuple[int, str]:
        order: Mapping[str, object] = {"user_id": f"buyer-{uuid4()}", "sku": self._sku, "total_amount": 700}
        try:
            async with self._session.post("/orders", json=order) as reply:
                body = await reply.json(content_type=None)
                return reply.status, body["status"] if reply.ok else f"{body['code']}: {body['detail']}"
        except aiohttp.ClientError as error:
            return 0, repr(error)


async def test_no_order_fails(fleet: Fleet, door: FrontDoorProcess, audit_books: Audit) -> None:
    """Each is completed and answered with 201 at the first attempt, and the books add up."""
    sku = f"SKU-{uuid4().hex[:12]}"
    connector = aiohttp.TCPConnector(ssl=door.tls, limit=0)
    async with aiohttp.ClientSession(
        door.door.url, connector=connector, timeout=aiohttp.ClientTimeout(total=60)
    ) as session:
        stock = {"product_id": "p", "sku": sku, "quantity": 100_000}
        async with session.post("/inventory/create", json=stock) as reply:
            assert reply.status == 201
        buyers = Buyers(session, sku)
        async with buyers:
            for _ in range(2):
                # One of each service at the same time, which is worse than one service after the other.
                await asyncio.gather(*map(fleet.replace, SERVICES))
            await asyncio.sleep(0.5)
        answers = await buyers.answers()
    assert answers.keys() == {(201, "completed")}, answers
    assert all(address.connections.keys() > address.endpoints for address in fleet.addresses.values())
    assert answers.total() > 3 * BUYERS_A_SECOND
    assert (await audit_books()).violations == []
