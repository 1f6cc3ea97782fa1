"""One address for several processes, as a Service of Kubernetes is one: each new connection goes to one of the
endpoints, and stays where it is for as long as both ends like."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ServiceAddress:
    """``endpoints`` are the ports on this machine that new connections go to: to one that had none yet, or in turn."""

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
        endpoints = sorted(self.endpoints)
        in_turn = endpoints[next(self._turn) % len(endpoints)]
        port = next((each for each in endpoints if each not in self.connections), in_turn)
        self.connections[port] = self.connections.get(port, 0) + 1
        with contextlib.closing(writer), contextlib.suppress(OSError):
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(inner_writer):
                await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side closes, which closes both, as HTTP has it."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
