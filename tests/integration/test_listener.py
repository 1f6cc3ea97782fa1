"""The end of a port: who has connected is served, who has not is refused, and there is nothing in between."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from common.certificates import Certificates
from common.listener import Listener
from common.protocol import Runner
from common.web import DRAINING
from vv import certs

REQUEST = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
# Longer than the moment in which a port closes, shorter than the time for a first request.
MEANWHILE_S = 0.5


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=await request.read() or b"here")

    app = web.Application()
    app[DRAINING] = asyncio.Event()
    app.router.add_route("*", "/", answer)
    runner = Runner(app, access_log=None)
    await runner.setup()
    yield runner
    await runner.cleanup()


@pytest.fixture
def tls(certificates: Path) -> Certificates:
    return Certificates(*certs.files_of(certificates, "order"))


async def listen(runner: Runner, tls: ssl.SSLContext | None = None) -> tuple[Listener, tuple[str, int]]:
    listener = Listener(runner, "127.0.0.1", 0, ssl_context=tls)
    await listener.start()
    return listener, runner.addresses[0]


async def end(listener: Listener, runner: Runner) -> None:
    """As a service does when it is told to end."""
    await listener.close()
    await runner.await_requests()
    await runner.cleanup()


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[socket.socket]:
    """A connection that the process has accepted, and that has said nothing yet."""
    with socket.socket() as connection:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, address)
        await asyncio.sleep(0.05)
        yield connection


async def test_who_was_not_accepted_yet_is_served(runner: Runner) -> None:
    """The system has connected them, the process has not heard of them; closing the port alone would reset them."""
    listener, address = await listen(runner)
    crowd = [socket.create_connection(address) for _ in range(50)]
    for connection in crowd:
        connection.sendall(REQUEST)
        connection.setblocking(False)
    await end(listener, runner)

    loop = asyncio.get_running_loop()
    replies = await asyncio.gather(*(loop.sock_recv(connection, 65_536) for connection in crowd))
    for connection in crowd:
        connection.close()
    assert [reply[-4:] for reply in replies] == [b"here"] * 50


async def test_who_comes_while_it_closes_is_not_connected(runner: Runner) -> None:
    """His system hears nothing, and when it asks again there is nobody: he knows for sure that nothing has happened."""
    listener, address = await listen(runner)
    closing = asyncio.create_task(listener.close())
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    with socket.socket() as newcomer:
        newcomer.setblocking(False)
        connecting = asyncio.create_task(loop.sock_connect(newcomer, address))
        await closing
        assert not connecting.done()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.wait_for(connecting, 5)


async def test_a_request_whose_body_is_on_its_way_is_answered(runner: Runner) -> None:
    """A slow line must not make a definite refusal of it."""
    listener, address = await listen(runner)
    loop = asyncio.get_running_loop()
    async with connected(address) as connection:
        await loop.sock_sendall(connection, b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 8\r\n\r\nfour")
        ending = asyncio.create_task(end(listener, runner))
        await asyncio.sleep(MEANWHILE_S)
        await loop.sock_sendall(connection, b"more")
        reply = await loop.sock_recv(connection, 65_536)
        await ending
    assert reply[-8:] == b"fourmore"


@pytest.mark.parametrize("accepted", [True, False], ids=["accepted", "queued"])
async def test_a_handshake_that_has_begun_may_end(runner: Runner, tls: Certificates, accepted: bool) -> None:
    """Whether the process has accepted the connection before it was told to end, or the system only."""
    listener, address = await listen(runner, tls.server)
    with socket.create_connection(address) as connection:
        connection.setblocking(False)
        if accepted:
            await asyncio.sleep(0.05)
        # Before the loop looks for connections again.
        ending = asyncio.create_task(end(listener, runner))
        await asyncio.sleep(MEANWHILE_S)
        reader, writer = await asyncio.open_connection(sock=connection, ssl=tls.client, server_hostname="localhost")
        writer.write(REQUEST)
        reply = await reader.read(65_536)
        writer.close()
        await ending
    assert reply[-4:] == b"here"


@pytest.mark.parametrize("accepted", [True, False], ids=["accepted", "queued"])
@pytest.mark.parametrize("encrypted", [True, False], ids=["tls", "plain"])
async def test_who_only_connects_holds_up_nothing_for_long(
    runner: Runner, tls: Certificates, encrypted: bool, accepted: bool
) -> None:
    """Two seconds are for those who would have sent something."""
    listener, address = await listen(runner, tls.server if encrypted else None)
    with socket.create_connection(address):
        if accepted:
            await asyncio.sleep(0.05)
        began = time.monotonic()
        await end(listener, runner)
    assert 1.5 < time.monotonic() - began < 5
