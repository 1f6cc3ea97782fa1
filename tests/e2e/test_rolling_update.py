"""Every process of the shop is replaced while buyers shop, and no order fails."""

import asyncio
import contextlib
import signal
import time
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
# For those who come one by one, one connection that is kept alive does: a second process would hear of nobody.
BUYERS_AT_A_TIME = 4
# As long as it takes to leave the endpoints, and for those who have a connection to be told to hang up.
DRAIN_DELAY_S = 1.0
LEAVES_THE_ENDPOINTS_AFTER_S = 0.3
REACHED_WITHIN_S = 15.0
BOUGHT = (201, "completed")


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

    @property
    def connections(self) -> dict[str, Counter[int]]:
        """How many each process has had, those that have left, too."""
        return {name: address.connections for name, address in self.addresses.items()}

    async def _start(self, name: str) -> None:
        process = ServiceProcess(name, self._environment, self._folder / f"{name}-{uuid4().hex[:4]}.log")
        self.processes[name].append(process)
        await asyncio.to_thread(process.start)
        self.addresses[name].add(process.port)

    def _kill(self) -> None:
        for process in (process for both in self.processes.values() for process in both):
            if process.is_running:
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
    """They come whether those before them are served or not, and none of them asks twice for anything. Each buys, then
    looks at his payment and at what is left, so that the front door has connections to all three services."""

    def __init__(self, session: aiohttp.ClientSession, sku: str) -> None:
        self._session = session
        self._sku = sku
        self._at_a_time = BUYERS_AT_A_TIME
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

    async def reach_each_process(self, fleet: Fleet) -> None:
        """Come until each has had a connection: what befalls one that has none says nothing.

        As often as before, but in ever larger crowds. Connections are kept alive, so that those to other processes may
        do; a crowd that is larger than any before it needs one more, and gets it where there are fewest.
        """
        deadline = time.monotonic() + REACHED_WITHIN_S
        while not all(all(counts.values()) for counts in fleet.connections.values()):
            assert time.monotonic() < deadline, f"a process has had no connection: {fleet.connections}"
            self._at_a_time += 1
            await asyncio.sleep(self._at_a_time / BUYERS_A_SECOND)

    async def _come(self) -> None:
        while True:
            self._tasks += [asyncio.create_task(self._buy()) for _ in range(self._at_a_time)]
            await asyncio.sleep(self._at_a_time / BUYERS_A_SECOND)

    async def _buy(self) -> tuple[int, str]:
        """What the order was answered with, or the look at what became of it that failed."""
        order: Mapping[str, object] = {"user_id": f"buyer-{uuid4()}", "sku": self._sku, "total_amount": 700}
        try:
            async with self._session.post("/orders", json=order) as reply:
                body = await reply.json(content_type=None)
                answer = reply.status, body["status"] if reply.ok else _problem(body)
            looks = (("/payments", {"order_id": body.get("order_id")}), ("/inventory/sku", {"sku": self._sku}))
            for path, query in looks if answer == BOUGHT else ():
                async with self._session.get(path, params=query) as reply:
                    body = await reply.json(content_type=None)
                    if not reply.ok:
                        answer = reply.status, f"{path}: {_problem(body)}"
        except aiohttp.ClientError as error:
            return 0, repr(error)
        return answer


def _problem(body: Mapping[str, object]) -> str:
    return f"{body['code']}: {body['detail']}"


async def test_no_order_fails(fleet: Fleet, door: FrontDoorProcess, audit_books: Audit) -> None:
    """Each is completed and answered with 201 at the first attempt, as is each look at what became of it with 200, and
    the books add up."""
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
            await buyers.reach_each_process(fleet)
            for _ in range(2):
                # One of each service at the same time, which is worse than one service after the other.
                await asyncio.gather(*map(fleet.replace, SERVICES))
                await buyers.reach_each_process(fleet)
            await asyncio.sleep(0.5)
        answers = await buyers.answers()
    assert answers.keys() == {BOUGHT}, answers
    assert all(len(counts) == 4 for counts in fleet.connections.values()), fleet.connections
    assert answers.total() > 3 * BUYERS_A_SECOND
    assert (await audit_books()).violations == []
