"""One address for several processes, as a Service of Kubernetes is one: each new connection goes to one of the
endpoints, and stays where it is for as long as both ends like."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ServiceAddress:
    """``endpoints`` are the ports on this machine that new connections go to, in turn."""

    def __init__(self, *endpoints: int) -> None:
        self.endpoints = set(endpoints)
        self.connections: dict[int, int] = {}
        self._turn = itertools.count()
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield
        finally:
            self._server.close()
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            with contextlib.suppress(OSError):
                await self._serve(reader, writer)
        finally:
            self._running.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        endpoints = sorted(self.endpoints)
        port = endpoints[next(self._turn) % len(endpoints)]
        self.connections[port] = self.connections.get(port, 0) + 1
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, inner_writer))
                both.create_task(_pump(inner_reader, writer))
        except* OSError:
            pass
        finally:
            inner_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side closes, which closes both, as HTTP has it."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
