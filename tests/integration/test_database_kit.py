"""The database kit where only a misbehaving server shows what it does."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from common.background import running
from common.database import Database
from common.errors import DatabaseUnavailable, Overloaded
from common.telemetry import Metrics
from common.transaction import Transaction
from payment_service.app import SCHEMA_REVISION
from tests.conftest import open_database
from vv.databases import Databases


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are accepted and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def select(tx: Transaction) -> object:
    return await tx.fetch_one("SELECT 1")


async def test_server_that_never_greets_is_unavailable(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that hangs holds nobody for ever, and no connection of the pool."""
    monkeypatch.setattr("common.database.CONNECT_WITHIN_S", 0.1)
    async with open_database(f"mysql://u:p@127.0.0.1:{silent_port}/d", pool_size_max=1) as database:
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await database.read(select)


async def test_loop_ends_although_a_cancellation_got_lost() -> None:
    """What runs beside the requests is cancelled until it is gone, so that SIGTERM always ends the process."""
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed += 1
        await asyncio.sleep(60)

    async with asyncio.timeout(5), running(stubborn()):
        await asyncio.sleep(0)
    assert swallowed == 1


async def test_service_ends_while_it_connects(silent_port: int) -> None:
    """A read that is cancelled while it connects is cancelled, not tried again."""
    async with open_database(f"mysql://u:p@127.0.0.1:{silent_port}/d") as database:
        reading = asyncio.create_task(database.transaction(select))
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_a_busy_database_is_not_unready(migrated: Databases) -> None:
    """With every connection in use for longer than the pool waits, a service stays in rotation: it is only busy."""
    url = migrated.service_urls["payment"]
    database = Database(url, Metrics("test"), pool_size_max=1, pool_wait_s=0.05, lock_wait_s=5, transaction_timeout_s=5)
    done = asyncio.Event()
    async with database:
        busy = asyncio.create_task(database.transaction(lambda _: done.wait()))
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded):
            await database.read(select)
        while_busy = await database.readiness(SCHEMA_REVISION)()
        done.set()
        await busy
        assert while_busy is None
        assert "lacks the migration 9999" in str(await database.readiness("9999")())
