"""What is used is given back: connections after cancelled queries, and everything after hours of mixed load.

``LEAKS_SECONDS`` is how long the mixed load takes: 20 by default, 1800 for half an hour.
"""

import asyncio
import contextlib
import os
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from uuid_utils import uuid7

from common.clients import AsyncInventoryClient
from common.database import Database
from common.transaction import Transaction
from tests.conftest import Audit, open_database
from tests.database_server import DatabaseServer
from tests.processes import ServiceProcess, Services
from vv.databases import Databases

SECONDS = float(os.environ.get("LEAKS_SECONDS", "20"))
ROUND_S = max(3.0, SECONDS / 20)
BUYERS = 24
POOL = 4


@pytest.fixture
async def admin(database_server: DatabaseServer) -> AsyncIterator[Database]:
    async with open_database(database_server.migration_url("inventory")) as admin:
        yield admin


# --- Cancelled queries.


@pytest.fixture
async def database(database_server: DatabaseServer) -> AsyncIterator[Database]:
    """A pool of four connections to a database of its own, with one row."""
    with database_server.further("leaks_db") as [url]:
        async with open_database(url, pool_size_max=POOL) as database:
            await database.transaction(lambda tx: tx.execute("CREATE TABLE one (n INT NOT NULL) ENGINE = InnoDB"))
            await database.transaction(lambda tx: tx.execute("INSERT INTO one (n) VALUES (0)"))
            yield database


async def count_up(tx: Transaction) -> None:
    tx.defer("SELECT SLEEP(%s)", (random.uniform(0, 0.004),))
    await tx.execute("UPDATE one SET n = n + 1")
    await tx.fetch_all("SELECT SLEEP(%s)", (random.uniform(0, 0.004),))


async def test_a_thousand_cancelled_queries_leave_the_pool_whole(
    database_server: DatabaseServer, database: Database, admin: Database
) -> None:
    """Every connection can be had again, none of them is in a transaction, and nobody waits for ever."""
    done = 0

    async def cancelled_at_random() -> None:
        nonlocal done
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0, 0.05)):
                await database.transaction(count_up)
                done += 1

    for _ in range(20):
        await asyncio.gather(*(cancelled_at_random() for _ in range(50)))

    together = asyncio.Barrier(POOL)

    async def use(tx: Transaction) -> int:
        await together.wait()
        await tx.execute("UPDATE one SET n = n + 1 WHERE FALSE")
        return int((await tx.fetch_all("SELECT CONNECTION_ID()"))[0][0])

    async with asyncio.timeout(10):
        # Refused within a transaction.
        await asyncio.gather(*(database.read(lambda tx: tx.execute("SET TRANSACTION READ WRITE")) for _ in range(POOL)))
        connections = await asyncio.gather(*(database.transaction(use) for _ in range(POOL)))
    assert len(set(connections)) == POOL
    sql = f"SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{database_server.name('leaks_db')}'"
    async with asyncio.timeout(10):
        # The server goes on with a statement whose caller went away.
        while (await admin.read(lambda tx: tx.fetch_all(sql)))[0][0] > POOL:
            await asyncio.sleep(0.05)
    [(n,)] = await database.read(lambda tx: tx.fetch_all("SELECT n FROM one"))
    # A COMMIT whose reply nobody waited for counts without having been counted.
    assert 0 < done <= n < 1_000


# --- Mixed load.


@dataclass(frozen=True)
class Held:
    """What a service at rest holds."""

    memory_mb: float
    files: int
    threads: int
    tasks: int
    connections_in_use: int


@pytest.fixture(scope="module")
def shop(migrated: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = Services(migrated.service_urls, tmp_path_factory.mktemp("leaks"))
    try:
        yield services.start()
    finally:
        services.stop()


async def held_by(service: ServiceProcess, session: aiohttp.ClientSession) -> Held:
    process = Path("/proc") / str(service.process.pid)
    status = (process / "status").read_text()
    async with session.get(f"{service.url}/metrics") as reply:
        metrics = await reply.text()

    def gauge(name: str) -> int:
        found = re.search(rf"^{name} ([0-9.e+]+)$", metrics, re.MULTILINE)
        assert found, name
        return int(float(found[1]))

    return Held(
        int(status.partition("VmRSS:")[2].split()[0]) / 1024,
        len(list((process / "fd").iterdir())),
        int(status.partition("Threads:")[2].split()[0]),
        gauge("vv_asyncio_tasks"),
        gauge("vv_db_pool_connections_in_use"),
    )


class Mix:
    """Buyers of all kinds at a stack."""

    def __init__(self, services: Services, plenty: str, sold_out: str) -> None:
        self._services = services
        self._plenty = plenty
        self._sold_out = sold_out
        self.sent = 0

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            await asyncio.gather(*(self._buyer(session, until) for _ in range(BUYERS)))

    async def _buyer(self, session: aiohttp.ClientSession, until: float) -> None:
        kinds = (self._order, self._order, self._order, self._cancelled, self._read, self._garbage, self._aborted)
        while time.monotonic() < until:
            self.sent += 1
            await random.choice(kinds)(session)

    def _wish(self, **fields: object) -> dict[str, object]:
        return {"user_id": str(uuid7()), "sku": self._plenty, "total_amount": 700, **fields}

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, object]) -> dict[str, str]:
        async with session.post(f"{self._services.order.url}/orders", json=body) as reply:
            assert reply.status < 500 or reply.status == 503
            found: dict[str, str] = await reply.json(content_type=None)
            return found

    async def _order(self, session: aiohttp.ClientSession) -> None:
        method = random.choice(("tok_ok", "tok_ok", "tok_ok", "tok_declined"))
        sku = random.choice((self._plenty, self._plenty, self._sold_out, "NO-SUCH-SKU"))
        await self._post(session, self._wish(payment_method=method, sku=sku))

    async def _cancelled(self, session: aiohttp.ClientSession) -> None:
        order = await self._post(session, self._wish())
        body = {"order_id": order["order_id"], "status": "cancelled"}
        async with session.patch(f"{self._services.order.url}/orders", json=body) as reply:
            await reply.read()

    async def _read(self, session: aiohttp.ClientSession) -> None:
        for url in (
            f"{self._services.order.url}/orders?limit=20",
            f"{self._services.inventory.url}/inventory/sku?sku={self._plenty}",
            f"{self._services.payment.url}/payments?order_id={uuid7()}",
        ):
            async with session.get(url) as reply:
                await reply.read()

    async def _garbage(self, session: aiohttp.ClientSession) -> None:
        service = random.choice(self._services.all)
        async with session.post(f"{service.url}/orders", data=random.randbytes(random.randint(1, 5_000))) as reply:
            await reply.read()
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(random.randbytes(200) + b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read(100)
        writer.close()

    async def _aborted(self, session: aiohttp.ClientSession) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0, 0.05)):
                await self._post(session, self._wish())


async def at_rest(services: Services, session: aiohttp.ClientSession) -> dict[str, Held]:
    await asyncio.sleep(1)
    return {service.name: await held_by(service, session) for service in services.all}


@pytest.mark.timeout(SECONDS * 2 + 120)
async def test_mixed_load_leaves_everything_flat(shop: Services, audit_books: Audit) -> None:
    """Memory, files, threads, tasks and connections of each service at rest are after the last rounds what they were
    after the first ones."""
    plenty, sold_out = f"LEAKS-{uuid7()}", f"LEAKS-{uuid7()}"
    async with AsyncInventoryClient(shop.inventory.url) as inventory:
        await inventory.create(product_id="p", sku=plenty, quantity=10**9)
        await inventory.create(product_id="p", sku=sold_out, quantity=0)
    mix = Mix(shop, plenty, sold_out)
    rounds = max(6, int(SECONDS / ROUND_S))
    samples: list[dict[str, Held]] = []
    async with aiohttp.ClientSession() as session:
        for _ in range(rounds):
            await mix.run(ROUND_S)
            samples.append(await at_rest(shop, session))

    assert mix.sent > 20 * rounds
    third = rounds // 3
    for name in ("order", "inventory", "payment"):
        # The first round fills caches, pools and the interpreter's own free lists.
        early, late = ([sample[name] for sample in part] for part in (samples[1 : 1 + third], samples[-third:]))

        def grown(what: str, early: list[Held] = early, late: list[Held] = late) -> float:
            return float(min(getattr(held, what) for held in late) - max(getattr(held, what) for held in early))

        assert grown("memory_mb") < 8, samples
        # Pools of connections grow to the most that were needed at once; each is a file, and a task of who is called.
        assert grown("files") <= 16, samples
        assert grown("tasks") <= 16, samples
        assert grown("threads") <= 0, samples
        assert late[-1].connections_in_use <= 1, samples
        assert statistics.median(held.memory_mb for held in late) < 200, samples
    assert (await audit_books()).violations == []
