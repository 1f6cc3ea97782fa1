"""The database kit where only a misbehaving server shows what it does."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from common.background import running
from common.errors import DatabaseUnavailable
from common.transaction import Transaction
from tests.conftest import open_database


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
