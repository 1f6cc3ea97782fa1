"""One address for several processes, as a Service of Kubernetes is one: each new connection goes to one of the
endpoints, and stays where it is for as long as both ends like."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ServiceAddress:
    """``endpoints`` are the ports on this machine that new connections go to: to that with the fewest open ones, so
    that whoever comes last gets the next one. ``connections`` counts those that came about, for each ever added."""

    def __init__(self) -> None:
        self.endpoints: set[int] = set()
        self.connections: Counter[int] = Counter()
        self._open: Counter[int] = Counter()
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def add(self, port: int) -> None:
        self.endpoints.add(port)
        self.connections[port] += 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        # Not a coroutine: asyncio would complain of those that are cancelled.
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield
        finally:
            self._server.close()
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = min(self.endpoints, key=lambda each: (self._open[each], self.connections[each], each))
        # Before there is one, so that those that come at the same time do not all go to the same port.
        self._open[port] += 1
        try:
            with contextlib.closing(writer), contextlib.suppress(OSError):
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
                self.connections[port] += 1
                with contextlib.closing(inner_writer):
                    await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
        finally:
            self._open[port] -= 1


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side closes, which closes both, as HTTP has it."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
