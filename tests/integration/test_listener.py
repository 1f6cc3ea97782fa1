"""The end of a port: who has connected is served, who has not is refused, and there is nothing in between."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from common.listener import Listener
from common.protocol import Runner
from common.web import DRAINING

REQUEST = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="here")

    app = web.Application()
    app[DRAINING] = asyncio.Event()
    app.router.add_get("/", answer)
    runner = Runner(app, access_log=None)
    await runner.setup()
    yield runner
    await runner.cleanup()


async def listen(runner: Runner) -> tuple[Listener, tuple[str, int]]:
    listener = Listener(runner, "127.0.0.1", 0)
    await listener.start()
    return listener, runner.addresses[0]


async def test_who_was_not_accepted_yet_is_served(runner: Runner) -> None:
    """The system has connected them, the process has not heard of them; closing the port alone would reset them."""
    listener, address = await listen(runner)
    crowd = [socket.create_connection(address) for _ in range(50)]
    for connection in crowd:
        connection.sendall(REQUEST)
        connection.setblocking(False)
    await listener.close()
    await runner.await_first_requests()

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
