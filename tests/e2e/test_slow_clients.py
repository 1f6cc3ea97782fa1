"""Clients that hold connections and give nothing for it are cut off within ten seconds, and nobody else notices."""

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from common.protocol import Runner
from common.web import DRAINING
from tests.e2e.raw import Answer, Server, assert_problem, read_answer
from tests.e2e.slow import (
    ASK,
    CUT_WITHIN_S,
    HEAD,
    BeSlow,
    begins_a_body,
    begins_a_head,
    begins_a_second_head,
    goes_on_with_a_body,
    goes_on_with_a_head,
    life,
    read_to_the_end,
    reads_nothing_of,
    says_nothing,
    send_half_a_body,
)
from tests.processes import Services

# Nearly all of them time how soon somebody is cut off, or somebody else is served.
pytestmark = pytest.mark.alone

# As long as nobody else notices.
_SERVED_WITHIN_S = 1.0
_CONNECTIONS = 30


SLOW = [
    says_nothing,
    begins_a_head,
    goes_on_with_a_head,
    begins_a_second_head,
    begins_a_body,
    goes_on_with_a_body,
    reads_nothing_of("/openapi.json"),
]


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
        half_a_body, rested = pool.submit(send_half_a_body, server), pool.submit(_rest, server)
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
    with server.connect() as connection:
        return life(connection, be_slow)


def _rest(server: Server) -> list[Answer]:
    answers = []
    with server.connect() as connection:
        for pause_s in (CUT_WITHIN_S, 0):
            connection.sendall(ASK)
            answers.append(read_answer(connection))
            time.sleep(pause_s)
    return answers


@pytest.mark.parametrize("kind", SLOW)
def test_a_slow_client_is_cut_off(kind: BeSlow, seen: Seen) -> None:
    """Whatever it is slow with."""
    assert len(seen.lived[kind]) == _CONNECTIONS
    assert max(seen.lived[kind]) < CUT_WITHIN_S


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
            assert_problem(server.send(HEAD + line + b"\r\n\r\n"), 400, "malformed_http")
    assert max(others) < _SERVED_WITHIN_S


def test_a_flood_of_requests_in_one_connection_harms_nobody(server: Server) -> None:
    """Ten thousand requests at once are answered one after the other."""
    flood = ASK * 10_000 + ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with server.connect() as connection, ThreadPoolExecutor() as pool, an_ordinary_client(server) as others:
        sending = pool.submit(connection.sendall, flood)
        assert read_to_the_end(connection).count(b"HTTP/1.1 200 OK") == 10_001
        sending.result()
    assert max(others) < _SERVED_WITHIN_S


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
