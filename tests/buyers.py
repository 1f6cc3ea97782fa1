"""Many buyers at once, each with a connection of his own and without second attempts."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.processes import ServiceProcess

_TIMEOUT = aiohttp.ClientTimeout(total=60)


@dataclass(frozen=True)
class Wish:
    """A request that somebody wants to send."""

    body: Mapping[str, Any]
    key: str | None = None
    path: str = "/orders"


@dataclass(frozen=True)
class Got:
    """What came of it, and after how many seconds; status 0 when the connection was refused or broke."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def code(self) -> str | None:
        return self.body.get("code")


class Buyers:
    """Sends wishes to one service."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def send(self, wish: Wish) -> Got:
        headers = {"Idempotency-Key": wish.key} if wish.key else {}
        started = time.perf_counter()
        try:
            async with self._session.post(wish.path, json=wish.body, headers=headers) as reply:
                body = await reply.json(content_type=None)
        except (aiohttp.ClientConnectionError, ConnectionError):
            return Got(0, seconds=time.perf_counter() - started)
        return Got(reply.status, body, reply.headers, time.perf_counter() - started)

    async def send_all(self, wishes: Sequence[Wish]) -> list[Got]:
        """All at once; what came of each, in order."""
        return await asyncio.gather(*map(self.send, wishes))

    def start(self, wishes: Sequence[Wish]) -> "list[asyncio.Task[Got]]":
        """All at once, without waiting."""
        return [asyncio.create_task(self.send(wish)) for wish in wishes]


@asynccontextmanager
async def buyers_at(url: str) -> AsyncIterator[Buyers]:
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0), timeout=_TIMEOUT) as session:
        yield Buyers(session)


@contextmanager
def asleep(service: ServiceProcess) -> Iterator[None]:
    """The process does nothing for a block; what reached its socket meanwhile is there all at once afterwards."""
    os.kill(service.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(service.process.pid, signal.SIGCONT)
