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
    """Two processes of each service, and their one address for the others. The front door knows all of them."""

    def __init__(self, databases: Databases, folder: Path) -> None:
        environment = {f"{name.upper()}_DATABASE_URL": url for name, url in databases.service_urls.items()}
        environment |= {f"{name.upper()}_DRAIN_DELAY_S": str(DRAIN_DELAY_S) for name in SERVICES}
        self.addresses = {name: ServiceAddress() for name in SERVICES}
        self._environment = environment
        self._folder = folder
        self.processes: dict[str, list[ServiceProcess]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for address in self.addresses.values():
                await stack.enter_async_context(address.open())
            self._environment |= {f"ORDER_{name.upper()}_URL": self.addresses[name].url for name in SERVICES[:2]}
            for name in SERVICES:
                self.processes[name] = [
                    ServiceProcess(name, self._environment, self._folder / f"{name}-{number}.log") for number in (1, 2)
                ]
            stack.callback(self._stop)
            await asyncio.gather(*(self._start(each) for both in self.processes.values() for each in both))
            yield

    async def replace(self, process: ServiceProcess) -> None:
        """As a roll-out does: SIGTERM, the endpoints hear of it a little later, and another one takes the place."""
        process.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(LEAVES_THE_ENDPOINTS_AFTER_S)
        self.addresses[process.name].endpoints.discard(process.port)
        assert await asyncio.to_thread(process.wait_for_end, 30) == 0
        await self._start(process)

    async def _start(self, process: ServiceProcess) -> None:
        await asyncio.to_thread(process.start)
        self.addresses[process.name].endpoints.add(process.port)

    def _stop(self) -> None:
        for both in reversed(self.processes.values()):
            for each in both:
                if each._process is not None and each.process.poll() is None:
                    each.kill()


@pytest.fixture
async def fleet(migrated: Databases, tmp_path: Path) -> AsyncIterator[Fleet]:
    made = Fleet(migrated, tmp_path)
    async with made.running():
        yield made


@pytest.fixture
async def door(fleet: Fleet, tmp_path: Path) -> AsyncIterator[FrontDoorProcess]:
    """nginx, with two servers for each service."""
    certificates = tmp_path / "certs"
    certs.ensure(certificates)
    upstreams = {
        name: f"http://127.0.0.1:{one.port} max_fails=3 fail_timeout=5s; server 127.0.0.1:{other.port}"
        for name, (one, other) in fleet.processes.items()
    }
    (tmp_path / "door").mkdir()
    process = FrontDoorProcess(tmp_path / "door", upstreams, certificates)
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
                return reply.status, str(body.get("status") or body)
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
            for number in (0, 1):
                # One of each service at the same time, which is worse than one service after the other.
                await asyncio.gather(*(fleet.replace(fleet.processes[name][number]) for name in SERVICES))
            await asyncio.sleep(0.5)
        answers = await buyers.answers()
    assert answers.keys() == {(201, "completed")}, answers
    assert answers.total() > 3 * BUYERS_A_SECOND
    for process in (process for both in fleet.processes.values() for process in both):
        assert process.log.read_text(encoding="utf-8").count('"draining"') == 1
    assert (await audit_books()).violations == []
