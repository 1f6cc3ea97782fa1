"""Faults inside the database: connections are killed, rows are locked for too long or in the wrong order."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import aiomysql
from pymysql.err import MySQLError

from tests.faults.harness.byte_troubles import Stall
from tests.faults.harness.cluster import SHORT_WAITS, Cluster
from tests.faults.harness.metrics import total
from vv.accounts import account_of
from vv.databases import SERVICES

Inflict = Callable[[Cluster, random.Random], Awaitable[int]]

_LOCK_WAIT_S = float(SHORT_WAITS["ORDER_LOCK_WAIT_S"])
_POOL_WAIT_S = float(SHORT_WAITS["ORDER_POOL_WAIT_S"])
_READERS = 4 * int(SHORT_WAITS["ORDER_POOL_SIZE_MAX"])
_NOBODY = "00000000-0000-7000-8000-000000000000"
_LOCK_WAIT_TIMEOUT, _DEADLOCK = 1205, 1213

# Rows that are in everybody's way. Gaps are locked along with them, so that new rows have to wait, too.
IN_THE_WAY = {
    "order": "SELECT 1 FROM order_db.orders ORDER BY order_id DESC LIMIT 50 FOR UPDATE",
    "inventory": "SELECT 1 FROM inventory_db.inventory FOR UPDATE",
    "payment": "SELECT 1 FROM payment_db.payments ORDER BY order_id DESC LIMIT 50 FOR UPDATE",
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
        before = await retries(cluster, service, _LOCK_WAIT_TIMEOUT)
        async with root_cursor(cluster) as cursor:
            await _as_often_as_deadlocked(cursor, ["BEGIN", IN_THE_WAY[service]])
            await asyncio.sleep(_LOCK_WAIT_S * rng.uniform(1.3, 2.5))
            await cursor.execute("ROLLBACK")
        return max(0, await retries(cluster, service, _LOCK_WAIT_TIMEOUT) - before)

    return inflict


async def carts_deadlocked(cluster: Cluster, rng: random.Random) -> int:
    """Two SKUs of a cart are locked in the opposite order, by a transaction that InnoDB spares; counts errors 1213."""
    before = await retries(cluster, "inventory", _DEADLOCK)
    async with root_cursor(cluster) as cursor:
        await _make_weight(cursor)
        for _ in range(rng.randint(5, 12)):
            skus = await _skus_of_a_cart(cursor)
            if len(skus) == 2:
                await _lock_backwards(cursor, *skus)
            await asyncio.sleep(rng.uniform(0.02, 0.1))
    return max(0, await retries(cluster, "inventory", _DEADLOCK) - before)


def pool_exhausted(service: str) -> Inflict:
    """The link to the database is stalled for longer than ``pool_wait_s``, and more want to read than there are
    connections; counts the readers whom the service refused for it."""

    async def inflict(cluster: Cluster, rng: random.Random) -> int:
        async with cluster.links[f"{service}-database"].suffering(Stall()):
            readers = [asyncio.create_task(_read(cluster, service)) for _ in range(_READERS)]
            await asyncio.sleep(_POOL_WAIT_S * rng.uniform(1.2, 2))
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


async def _as_often_as_deadlocked(cursor: Any, statements: list[str]) -> None:
    for _ in range(10):
        try:
            for statement in statements:
                await cursor.execute(statement)
        except MySQLError as error:
            if error.args[0] not in (_DEADLOCK, _LOCK_WAIT_TIMEOUT):
                raise
            await cursor.execute("ROLLBACK")
        else:
            return


async def _make_weight(cursor: Any) -> None:
    await cursor.execute("CREATE DATABASE IF NOT EXISTS nemesis")
    await cursor.execute("CREATE TABLE IF NOT EXISTS nemesis.weight (n INT PRIMARY KEY) ENGINE = InnoDB")


async def _skus_of_a_cart(cursor: Any) -> list[str]:
    """Two SKUs that somebody has just bought together, in the order in which the service locks them."""
    await cursor.execute(
        "SELECT DISTINCT sku FROM inventory_db.stock_ledger WHERE sku IS NOT NULL AND request_id = "
        "(SELECT request_id FROM inventory_db.stock_ledger WHERE line = 2 ORDER BY ledger_id DESC LIMIT 1) ORDER BY sku"
    )
    return [row[0] for row in await cursor.fetchall()][:2]


async def _lock_backwards(cursor: Any, first: str, second: str) -> None:
    lock = "SELECT 1 FROM inventory_db.inventory WHERE sku = %s FOR UPDATE"
    try:
        await cursor.execute("BEGIN")
        # Of two InnoDB rolls the one back that has changed less.
        await cursor.execute("INSERT INTO nemesis.weight SELECT seq FROM nemesis.seq_1_to_2000")
        await cursor.execute(lock, (second,))
        # For somebody who has the first one to ask for the second one.
        await asyncio.sleep(0.05)
        await cursor.execute(lock, (first,))
    except MySQLError as error:
        if error.args[0] not in (_DEADLOCK, _LOCK_WAIT_TIMEOUT):
            raise
    finally:
        await cursor.execute("ROLLBACK")


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
