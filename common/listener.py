"""aiohttp's port, without patience for slow TLS handshakes, and with an end that cuts nobody off."""

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
from typing import Any

from aiohttp import web

from common.protocol import LINGER_S, PATIENCE_S

# For the handshakes that have begun, and the requests that are on their way over a connection of ours.
_LAST_ROUND_TRIPS_S = 0.1
# Of <asm-generic/socket.h>; Python has no name for it.
_SO_ATTACH_FILTER = 26
# A classic BPF program (Linux, Documentation/networking/filter.rst), which sees a packet from its TCP header on:
# load the byte of the flags; is SYN among them?; yes: keep nothing of the packet; no: keep it whole.
_NO_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
)


class Listener(web.TCPSite):
    # Nobody awaits it, and so somebody has to hold it.
    _serving: "asyncio.Future[Any]"

    async def start(self) -> None:
        await web.BaseSite.start(self)
        assert self._runner.server is not None
        self._server = await asyncio.get_running_loop().create_server(
            self._runner.server,
            self._host,
            self._port,
            backlog=self._backlog,
            reuse_address=self._reuse_address,
            reuse_port=self._reuse_port,
            **self._tls,
        )

    async def close(self) -> None:
        """Close the port, but accept those who had connected to it: the system resets whom nobody has accepted."""
        assert isinstance(self._server, asyncio.Server)
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        ports = [listening.fileno() for listening in self._server.sockets]
        for port in ports:
            _ignore_newcomers(port)
            # From here on nobody is accepted but by us, who wait until all of them are served.
            loop.remove_reader(port)
        await asyncio.sleep(_LAST_ROUND_TRIPS_S)
        connected = [connection for port in ports for connection in _accept_all(port)]
        await self.stop()
        serving = [loop.connect_accepted_socket(self._runner.server, each, **self._tls) for each in connected]
        # Who fails the handshake, or hangs up during it, has lost nothing.
        self._serving = asyncio.gather(*serving, return_exceptions=True)
        # From now on the runner knows of them.
        await asyncio.sleep(0)

    @property
    def _tls(self) -> dict[str, Any]:
        """As asyncio takes it."""
        if self._ssl_context is None:
            return {}
        return {
            "ssl": self._ssl_context,
            "ssl_handshake_timeout": PATIENCE_S,
            "ssl_shutdown_timeout": LINGER_S,
        }


def _ignore_newcomers(port: int) -> None:
    """Nobody connects any more, so that nobody does between the last one who is accepted and the closing of the port.

    Their systems ask again after a second, and are refused then, which is a definite answer.
    """
    program = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
    filter_ = struct.pack("HP", len(_NO_SYN) // 8, ctypes.addressof(program))
    # Where there are no such filters (another system, a sandbox), the moment in between is short.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(port)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)


def _accept_all(port: int) -> list[socket.socket]:
    connected: list[socket.socket] = []
    # Until nobody is left, or there are no more files to be had.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(port)) as listening:
        while True:
            connected.append(listening.accept()[0])
            connected[-1].setblocking(False)
    return connected
