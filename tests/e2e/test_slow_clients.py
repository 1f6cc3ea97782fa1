"""Clients that hold connections and give nothing for it are cut off within ten seconds, and nobody else notices."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from common.protocol import Runner
from common.web import DRAINING
from tests.e2e.raw import Answer, Server, assert_problem, read_answer
from tests.processes import Services

# Nearly all of them time how soon somebody is cut off, or somebody else is served.
pytestmark = pytest.mark.alone

_ASK = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"
_HEAD = b"POST /orders HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
# Ten seconds, and something for a machine that has other things to do.
_CUT_WITHIN_S = 12.0
# As long as nobody else notices.
_SERVED_WITHIN_S = 1.0
_CONNECTIONS = 30


def says_nothing(_: socket.socket) -> None:
    """Connects, and that is all."""


def begins_a_head(connection: socket.socket) -> None:
    connection.sendall(_HEAD)


def goes_on_with_a_head(connection: socket.socket) -> None:
    """A byte now and then, for as long as it is let."""
    connection.sendall(_HEAD)
    _dribble(connection, b"X")


def begins_a_second_head(connection: socket.socket) -> None:
    connection.sendall(_ASK)
    assert read_answer(connection).status == 200
    connection.sendall(_HEAD)


def begins_a_body(connection: socket.socket) -> None:
    connection.sendall(_HEAD + b"Content-Length: 1000\r\n\r\n{")


def goes_on_with_a_body(connection: socket.socket) -> None:
    connection.sendall(_HEAD + b"Content-Length: 1000\r\n\r\n")
    _dribble(connection, b" ")


def reads_nothing(connection: socket.socket) -> Iterator[None]:
    """Asks for more than fits into the buffers on the way, again and again."""
    while True:
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n" * 100)
        yield


def _dribble(connection: socket.socket, byte: bytes) -> None:
    while True:
        connection.sendall(byte)
        time.sleep(0.5)


SLOW = [
    says_nothing,
    begins_a_head,
    goes_on_with_a_head,
    begins_a_second_head,
    begins_a_body,
    goes_on_with_a_body,
    reads_nothing,
]
BeSlow = Callable[[socket.socket], Iterator[None] | None]


@dataclass(frozen=True)
class Seen:
    """How many seconds the connections of each kind lived, and how many an ordinary request took meanwhile; what half a
    body was answered, and two requests in one connection with a rest between them."""

    lived: dict[BeSlow, list[float]]
    others: list[float]
    half_a_body: Answer
    rested: list[Answer]


@pytest.fixture(scope="module")
def server(services: Services) -> Server:
    return Server(services.order.url)


@pytest.fixture(scope="module")
def seen(server: Server) -> Seen:
    """Slow clients of every kind at once."""
    with ThreadPoolExecutor(len(SLOW) * _CONNECTIONS + 2) as pool, an_ordinary_client(server) as others:
        flood = {kind: [pool.submit(_life, server, kind) for _ in range(_CONNECTIONS)] for kind in SLOW}
        half_a_body, rested = pool.submit(_send_half_a_body, server), pool.submit(_rest, server)
        lived = {kind: [each.result() for each in connections] for kind, connections in flood.items()}
    return Seen(lived, others, half_a_body.result(), rested.result())


@contextmanager
def an_ordinary_client(server: Server) -> Iterator[list[float]]:
    """How long, in seconds, each of its requests took during a block."""
    took: list[float] = []
    is_over = False

    def call() -> None:
        while not is_over:
            started = time.monotonic()
            assert server.get("/orders", limit=1).status == 200
            took.append(time.monotonic() - started)
            time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(call)
        try:
            yield took
        finally:
            is_over = True
            calling.result()


def _life(server: Server, be_slow: BeSlow) -> float:
    """Seconds until the server closes the connection, one way or the other; TimeoutError when it does not. Of who does
    not take what he has asked for, from when nothing more of that fitted in."""
    with server.connect() as connection:
        connection.settimeout(2 * _CUT_WITHIN_S)
        started = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in be_slow(connection) or ():
                started = time.monotonic()
            _read_to_the_end(connection)
        return time.monotonic() - started


def _send_half_a_body(server: Server) -> Answer:
    with server.connect() as connection:
        begins_a_body(connection)
        return read_answer(connection)


def _rest(server: Server) -> list[Answer]:
    answers = []
    with server.connect() as connection:
        for pause_s in (_CUT_WITHIN_S, 0):
            connection.sendall(_ASK)
            answers.append(read_answer(connection))
            time.sleep(pause_s)
    return answers


@pytest.mark.parametrize("kind", SLOW)
def test_a_slow_client_is_cut_off(kind: BeSlow, seen: Seen) -> None:
    """Whatever it is slow with."""
    assert len(seen.lived[kind]) == _CONNECTIONS
    assert max(seen.lived[kind]) < _CUT_WITHIN_S


def test_nobody_else_notices(seen: Seen) -> None:
    assert len(seen.others) > 20
    assert max(seen.others) < _SERVED_WITHIN_S


def test_who_sends_half_a_body_is_told(seen: Seen) -> None:
    """Before the connection is cut, in case that he reads."""
    assert_problem(seen.half_a_body, 400, "malformed_http")


def test_a_connection_may_rest_between_two_requests(seen: Seen) -> None:
    """For longer than a head may take: proxies keep connections open."""
    assert [answer.status for answer in seen.rested] == [200, 200]


def test_huge_heads_harm_nobody(server: Server) -> None:
    """They are refused as soon as they are too long, however much more would come."""
    with an_ordinary_client(server) as others:
        for line in (b"X-Long: " + b"x" * 1_000_000, b"X-Many: x\r\n" * 100_000):
            assert_problem(server.send(_HEAD + line + b"\r\n\r\n"), 400, "malformed_http")
    assert max(others) < _SERVED_WITHIN_S


def test_a_flood_of_requests_in_one_connection_harms_nobody(server: Server) -> None:
    """Ten thousand requests at once are answered one after the other."""
    flood = _ASK * 10_000 + _ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with server.connect() as connection, ThreadPoolExecutor() as pool, an_ordinary_client(server) as others:
        sending = pool.submit(connection.sendall, flood)
        assert _read_to_the_end(connection).count(b"HTTP/1.1 200 OK") == 10_001
        sending.result()
    assert max(others) < _SERVED_WITHIN_S


def _read_to_the_end(connection: socket.socket) -> bytes:
    read = bytearray()
    while data := connection.recv(65_536):
        read += data
    return bytes(read)


async def test_a_head_that_comes_with_the_connection_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS its beginning may be there in the turn of the event loop in which the connection is made."""
    monkeypatch.setattr("common.protocol.PATIENCE_S", 0.1)
    app = web.Application()
    app[DRAINING] = asyncio.Event()
    runner = Runner(app)
    await runner.setup()
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    assert runner.server is not None
    connection = runner.server()
    connection.connection_made(transport)
    connection.data_received(b"GET /livez HTTP/1.1\r\nHo")
    await asyncio.sleep(0.3)
    assert transport.is_closing()
    theirs.close()
    await runner.cleanup()
