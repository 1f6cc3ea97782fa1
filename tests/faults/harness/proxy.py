"""A TCP proxy on a link between two processes, with troubles that are imposed on it and lifted again.

All proxies run in the event loop of a thread of their own, so that whoever imposes troubles may use any loop, or none.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from tests.faults.harness.pipes import Pipe

T = TypeVar("T")
TroubleType = TypeVar("TroubleType", bound="Trouble")


class Trouble:
    """What a link does to its traffic; this one does nothing. Its methods run in the thread of the proxies.

    ``hits`` counts how often it really did something to somebody. ``refuses`` closes the port of the link and cuts
    off who is connected.
    """

    refuses = False

    def __init__(self) -> None:
        self.hits = 0

    def imposed(self, proxy: "Proxy") -> None:
        """It begins."""

    def on_request(self, pipe: Pipe, data: bytes) -> None:
        """Bytes from the client."""
        pipe.upstream.send(data)

    def on_reply(self, pipe: Pipe, data: bytes) -> None:
        """Bytes from upstream."""
        pipe.client.send(data)

    def on_closed(self, pipe: Pipe) -> None:
        """The client has gone."""

    def lifted(self) -> None:
        """It ends: what is still held must go on its way now."""


class Proxies(threading.Thread):
    """The event loop of all proxies."""

    def __init__(self) -> None:
        super().__init__(name="proxies", daemon=True)
        self.loop = asyncio.new_event_loop()

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` there and wait for it. Blocks."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def call_async(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` there and wait for it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def end(self) -> None:
        """Stop the loop and the thread. Blocks."""
        self.call(_cancel_others())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.join(10)
        self.loop.close()


class Proxy:
    """One link: ``port`` on loopback here, ``upstream_port`` there. Of several troubles the last one holds."""

    def __init__(self, name: str, port: int, upstream_port: int, proxies: Proxies) -> None:
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{self.port}"
        self.pipes: set[Pipe] = set()
        self._upstream = ("127.0.0.1", upstream_port)
        self._proxies = proxies
        self._trouble = self._none = Trouble()
        self._server: asyncio.Server | None = None
        # Bound and never listening: whoever connects while the port is closed is refused, and nobody else gets it.
        self._reserved = _bound(self.port)

    def start(self) -> None:
        """Open the port. Blocks."""
        self._proxies.call(self._listen())

    def end(self) -> None:
        """Close the port and every connection. Blocks."""
        self._proxies.call(self._close())
        self._reserved.close()

    @asynccontextmanager
    async def suffering(self, trouble: TroubleType) -> AsyncIterator[TroubleType]:
        """Impose a trouble for a block, unless another one takes its place earlier."""
        await self._proxies.call_async(self._impose(trouble))
        try:
            yield trouble
        finally:
            await self._proxies.call_async(self._lift(trouble))

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run what a trouble has to do in the thread of the proxies."""
        return await self._proxies.call_async(work)

    async def heal(self) -> None:
        """Lift whatever is imposed."""
        await self._proxies.call_async(self._lift(self._trouble))

    def on_request(self, pipe: Pipe, data: bytes) -> None:
        self._trouble.on_request(pipe, data)

    def on_reply(self, pipe: Pipe, data: bytes) -> None:
        self._trouble.on_reply(pipe, data)

    def on_closed(self, pipe: Pipe) -> None:
        self.pipes.discard(pipe)
        self._trouble.on_closed(pipe)

    async def send_aside(self, data: bytes, timeout_s: float = 5.0) -> bytes:
        """Send a request upstream on a connection of its own; the head of the reply, empty if there was none."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(*self._upstream)
                try:
                    writer.write(data)
                    return await reader.readline()
                finally:
                    writer.close()
        return b""

    def _pipe(self) -> Any:
        pipe = Pipe(self, *self._upstream)
        self.pipes.add(pipe)
        return pipe.client

    async def _listen(self) -> None:
        listening = _bound(self.port)
        self._server = await asyncio.get_running_loop().create_server(self._pipe, sock=listening, backlog=1024)

    async def _impose(self, trouble: Trouble) -> None:
        await self._lift(self._trouble)
        self._trouble = trouble
        if trouble.refuses:
            self._close_port()
            trouble.hits += self._reset(self.pipes)
        trouble.imposed(self)

    async def _lift(self, trouble: Trouble) -> None:
        if trouble is not self._trouble or trouble is self._none:
            return
        self._trouble = self._none
        trouble.lifted()
        self._reset({pipe for pipe in self.pipes if pipe.is_silent})
        if self._server is None:
            await self._listen()

    async def _close(self) -> None:
        self._close_port()
        self._reset(self.pipes)

    def _close_port(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _reset(self, pipes: set[Pipe]) -> int:
        doomed = list(pipes)
        for pipe in doomed:
            pipe.reset()
        return len(doomed)


def _bound(port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off only where the protocol is spelt out.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
