"""Orders that come at their own pace, whether those before them are answered or not."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer: when the request was due, and how many seconds later the answer came; status 0 if it broke."""

    due: float
    seconds: float
    status: int
    retry_after: bool


class _Connection(asyncio.Protocol):
    """A connection with one request at a time. Far less work than a real HTTP client: the servers need the machine."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._received = bytearray()
        self.due: float | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: bytes, due: float) -> None:
        assert self.transport is not None
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        lower = head.lower()
        if not blank or len(body) < int(lower.partition(b"content-length:")[2].split(None, 1)[0]):
            return
        self._received.clear()
        self._load.free.append(self)
        self._end(int(head[9:12]), retry_after=b"\r\nretry-after:" in lower)

    def connection_lost(self, _: Exception | None) -> None:
        self._load.connections.discard(self)
        if self in self._load.free:
            self._load.free.remove(self)
        self._end(0, retry_after=False)

    def _end(self, status: int, *, retry_after: bool) -> None:
        if self.due is not None:
            answered = Answered(self.due, time.perf_counter() - self.due, status, retry_after)
            self.due = None
            self._load.answered(answered)


class Load:
    """Posts ``body(n)`` to ``path`` at ``url``."""

    def __init__(self, url: str, path: str, body: Callable[[int], Mapping[str, Any]]) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), parts.port or 80
        self._head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        self._body = body
        self._sent = 0
        self._waiting = 0
        self._closed_until = 0.0
        self._answers: list[Answered] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self.free: deque[_Connection] = deque()
        self.connections: set[_Connection] = set()

    async def open(self, rate: float, seconds: float) -> list[Answered]:
        """``rate`` requests a second at even intervals, whether those before them are answered or not."""
        started = time.perf_counter()
        for n in range(int(rate * seconds)):
            due = started + n / rate
            if (early := due - time.perf_counter()) > 0.001:
                await asyncio.sleep(early)
            elif n % 16 == 0:
                await asyncio.sleep(0)
            self._send(due)
        return await self._rest()

    async def closed(self, clients: int, seconds: float) -> list[Answered]:
        """``clients`` who each send the next request when they have the answer."""
        self._closed_until = time.perf_counter() + seconds
        for _ in range(clients):
            self._send(time.perf_counter())
        await asyncio.sleep(seconds)
        return await self._rest()

    def close(self) -> None:
        for connection in self.connections:
            assert connection.transport is not None
            connection.transport.abort()

    def answered(self, answered: Answered) -> None:
        self._waiting -= 1
        self._answers.append(answered)
        if time.perf_counter() < self._closed_until:
            self._send(time.perf_counter())

    async def _rest(self) -> list[Answered]:
        while self._waiting:
            await asyncio.sleep(0.02)
        answers, self._answers = self._answers, []
        return answers

    def _send(self, due: float) -> None:
        body = json.dumps(self._body(self._sent))
        self._sent += 1
        self._waiting += 1
        request = f"{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        if self.free:
            self.free.pop().send(request, due)
            return
        task = asyncio.create_task(self._connect_and_send(request, due))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect_and_send(self, request: bytes, due: float) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: _Connection(self), self._host, self._port)
        except OSError:
            self.answered(Answered(due, time.perf_counter() - due, 0, retry_after=False))
            return
        self.connections.add(connection)
        connection.send(request, due)
