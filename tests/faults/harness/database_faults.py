"""Faults inside the database: connections are killed, rows are locked for too long."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import aiomysql
from pymysql.err import MySQLError

from tests.faults.harness.byte_troubles import Stall
from tests.faults.harness.cluster import Cluster
from tests.faults.harness.metrics import total
from vv.accounts import account_of
from vv.databases import SERVICES

Inflict = Callable[[Cluster, random.Random], Awaitable[int]]

_NOBODY = "00000000-0000-7000-8000-000000000000"
_LOCK_WAIT_TIMEOUT, _DEADLOCK = 1205, 1213

# Rows that are in everybody's way. Gaps are locked along with them, so whatever gets a lease has to wait, too.
_UNDER_WAY = "SELECT 1 FROM {} FORCE INDEX (by_lease) WHERE lease_until > '2000-01-01' FOR UPDATE"
IN_THE_WAY = {
    "order": _UNDER_WAY.format("order_db.orders"),
    "inventory": "SELECT 1 FROM inventory_db.inventory FOR UPDATE",
    "payment": _UNDER_WAY.format("payment_db.payments"),
}
READS = {
    "order": f"/orders/{_NOBODY}",
    "inventory": "/inventory/sku?sku=NONE",
    "payment": f"/payments?order_id={_NOBODY}",
}


async def connections_killed(cluster: Cluster, rng: random.Random) -> int:
    """``KILL`` of about a third of the services' connections, a few times over."""
    killed = 0
    accounts = {account_of(service) for service in SERVICES}
    async with root_cursor(cluster) as cursor:
        for _ in range(rng.randint(3, 8)):
            await cursor.execute("SHOW PROCESSLIST")
            theirs = [row[0] for row in await cursor.fetchall() if row[1] in accounts]
            for connection in rng.sample(theirs, (len(theirs) + 2) // 3):
                killed += await _kill(cursor, connection)
            await asyncio.sleep(rng.uniform(0.05, 0.3))
    return killed


def rows_locked(service: str) -> Inflict:
    """Rows that everybody needs are locked for longer than ``innodb_lock_wait_timeout``; counts errors 1205."""

    async def inflict(cluster: Cluster, rng: random.Random) -> int:
        lock_wait_s = float(cluster.settings[f"{service.upper()}_LOCK_WAIT_S"])
        before = await retries(cluster, service, _LOCK_WAIT_TIMEOUT)
        deadline = time.monotonic() + 4 * lock_wait_s
        hits = 0
        async with root_cursor(cluster) as cursor:
            await _insist(cursor, "BEGIN", IN_THE_WAY[service])
            while not hits and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                hits = await retries(cluster, service, _LOCK_WAIT_TIMEOUT) - before
            await asyncio.sleep(rng.uniform(0, lock_wait_s))
            await cursor.execute("ROLLBACK")
        return max(hits, await retries(cluster, service, _LOCK_WAIT_TIMEOUT) - before)

    return inflict


def pool_exhausted(service: str) -> Inflict:
    """The link to the database is stalled for longer than ``pool_wait_s``, and more want to read than there are
    connections; counts the readers whom the service refused for it."""

    async def inflict(cluster: Cluster, rng: random.Random) -> int:
        pool_wait_s = float(cluster.settings[f"{service.upper()}_POOL_WAIT_S"])
        readers_max = 4 * int(cluster.settings[f"{service.upper()}_POOL_SIZE_MAX"])
        async with cluster.links[f"{service}-database"].suffering(Stall()):
            readers = [asyncio.create_task(_read(cluster, service)) for _ in range(readers_max)]
            await asyncio.sleep(pool_wait_s * rng.uniform(1.2, 2))
        return sum(await asyncio.gather(*readers))

    return inflict


@asynccontextmanager
async def root_cursor(cluster: Cluster) -> AsyncIterator[Any]:
    """A cursor of the database's root, over the socket."""
    mariadb = cluster.mariadb
    connection = await aiomysql.connect(
        unix_socket=str(mariadb.socket), user="root", password=mariadb.passwords["root"], autocommit=True
    )
    try:
        async with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


async def retries(cluster: Cluster, service: str, errno: int) -> int:
    """How many transactions of a service were run again because of an error, since the service started."""
    url = cluster.direct_url(service)
    return await total(url, "vv_db_transaction_retries_total", lambda labels: labels["errno"] == str(errno))


async def _kill(cursor: Any, connection: int) -> bool:
    try:
        await cursor.execute(f"KILL {connection}")
    except MySQLError:
        # It has gone by itself.
        return False
    return True


async def _insist(cursor: Any, *statements: str) -> None:
    """Run a transaction until it is the one that is spared."""
    while True:
        try:
            for statement in statements:
                await cursor.execute(statement)
        except MySQLError as error:
            if error.args[0] not in (_DEADLOCK, _LOCK_WAIT_TIMEOUT):
                raise
            await cursor.execute("ROLLBACK")
        else:
            return


async def _read(cluster: Cluster, service: str) -> bool:
    """Whether a reader was refused."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=8)) as session,
            session.get(cluster.direct_url(service) + READS[service]) as reply,
        ):
            return reply.status == 503
    except (aiohttp.ClientError, TimeoutError):
        return False
