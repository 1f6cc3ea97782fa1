"""One connection through a proxy: two sockets, and what may be done to the bytes between them."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Protocol

# Close without a farewell: the peer gets a reset instead of an end.
_LINGER_NOT = struct.pack("ii", 1, 0)


class Traffic(Protocol):
    """Who decides what becomes of the bytes."""

    def on_request(self, pipe: "Pipe", data: bytes) -> None: ...
    def on_reply(self, pipe: "Pipe", data: bytes) -> None: ...
    def on_closed(self, pipe: "Pipe") -> None: ...


class End(asyncio.Protocol):
    """One of the two sockets. What is sent late keeps its place: nothing overtakes it."""

    def __init__(self, pipe: "Pipe") -> None:
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()
        self._late = 0
        self._last_due = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._pipe.opened(self)

    def data_received(self, data: bytes) -> None:
        self._pipe.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pipe.lost(self, was_reset=exc is not None)

    def pause_writing(self) -> None:
        self._pipe.other(self).pause_reading()

    def resume_writing(self) -> None:
        self._pipe.other(self).resume_reading()

    def pause_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def send(self, data: bytes, delay_s: float = 0.0) -> None:
        """Write ``data``, ``delay_s`` seconds from now, or after what was sent late before."""
        if self._late or delay_s:
            self._at(delay_s, lambda: self._write(data))
        else:
            self._write(data)

    def close(self) -> None:
        """Close, once all that was sent late is written."""
        if self._late:
            self._at(0, self.close)
        elif self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """Close so that the peer gets a reset."""
        if self.transport is None or self.transport.is_closing():
            return
        connection: socket.socket = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.transport.abort()

    def _at(self, delay_s: float, act: Callable[[], None]) -> None:
        # Never equal: the loop does not keep the order of timers of the same time.
        self._last_due = max(self._loop.time() + delay_s, self._last_due + 1e-6)
        self._late += 1
        self._loop.call_at(self._last_due, self._late_one, act)

    def _late_one(self, act: Callable[[], None]) -> None:
        self._late -= 1
        act()

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)


class Pipe:
    """A connection of a client, and the one that the proxy has to its upstream for it."""

    def __init__(self, traffic: Traffic, host: str, port: int) -> None:
        self._traffic = traffic
        self._address = (host, port)
        self._opening: asyncio.Task[None] | None = None
        self.client = End(self)
        self.upstream = End(self)
        # Nothing goes through any more, and nobody is told.
        self.is_silent = False
        self.is_closed = False

    def other(self, end: End) -> End:
        return self.upstream if end is self.client else self.client

    def opened(self, end: End) -> None:
        if end is self.client:
            end.pause_reading()
            self._opening = asyncio.get_running_loop().create_task(self._open())
        elif self.is_closed:
            end.close()
        else:
            self.client.resume_reading()

    def received(self, end: End, data: bytes) -> None:
        if self.is_silent:
            return
        if end is self.client:
            self._traffic.on_request(self, data)
        else:
            self._traffic.on_reply(self, data)

    def lost(self, end: End, *, was_reset: bool) -> None:
        other = self.other(end)
        if was_reset:
            other.reset()
        elif not self.is_silent or end is self.client:
            other.close()
        if end is self.client and not self.is_closed:
            self.is_closed = True
            self._traffic.on_closed(self)

    def reset(self) -> None:
        """Cut the connection off; both sides get a reset."""
        self.client.reset()
        self.upstream.reset()

    async def _open(self) -> None:
        host, port = self._address
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.upstream, host, port)
        except OSError:
            self.client.reset()
