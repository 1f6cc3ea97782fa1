"""A service that is full: requests are refused before anything is done, and never mistaken for anything else."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from common import load_shedding
from common.load_shedding import LoadShedder
from common.middleware import UNLOGGED
from common.protocol import Runner
from common.telemetry import Metrics
from common.web import DRAINING, LOAD_SHEDDER
from tests.e2e.conftest import Books, Servers, wait_until
from tests.e2e.raw import Server
from tests.processes import ServiceProcess
from vv.databases import Databases

BODY = b'{"sku":"X","quantity":1}'
POST = b"POST /inventory/decrease HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 24\r\n"
GET = b"GET /inventory/sku?sku=none HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def full() -> LoadShedder:
    known = {"/inventory/decrease", "/orders", "/orders/{order_id}"}
    shedder = LoadShedder(1, Metrics("test"), open_to_all=UNLOGGED, known=known)
    shedder.in_flight = 1
    return shedder


async def test_a_whole_request_is_refused(full: LoadShedder) -> None:
    """With the status, code, request id and Retry-After that every refusal has."""
    reply = full.refuse(POST + b"X-Request-ID: mine\r\n\r\n" + BODY)
    assert reply is not None
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in head
    assert b"\r\nX-Request-ID: mine\r\n" in head
    assert b'"code": "overloaded"' in body
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize(
    "data",
    [
        POST + b"\r\n" + BODY[:-1],
        POST + b"\r\n" + BODY + b"POST",
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + BODY,
        POST + b"Expect: 100-continue\r\n\r\n" + BODY,
        POST + b"Connection: close\r\n\r\n" + BODY,
        POST + b"Connection:close\r\n\r\n" + BODY,
        POST + b"Connection:  Close\r\n\r\n" + BODY,
        POST + b"Connection: keep-alive, close\r\n\r\n" + BODY,
        POST + b"X: a\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
        POST + b"X: a\rTransfer-Encoding: chunked\r\n\r\n" + BODY,
        POST + b"Transfer-Encoding : chunked\r\n\r\n" + BODY,
        POST + b"X: a\r\n Transfer-Encoding: chunked\r\n\r\n" + BODY,
        POST + b"X: \0\r\n\r\n" + BODY,
        POST + b"no colon\r\n\r\n" + BODY,
        b"GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n",
        b"GET /a\r\nX:b HTTP/1.1\r\n\r\n",
        POST + b"Content-Length: 24\r\n\r\n" + BODY,
        POST,
        BODY,
        b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez?x=1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01 nonsense",
    ],
)
async def test_what_is_not_a_plain_request_goes_the_usual_way(data: bytes, full: LoadShedder) -> None:
    """Pieces, pipelines, what ends otherwise than by its length, what the parser refuses, and health checks."""
    assert full.refuse(data) is None


@pytest.mark.parametrize("connection", [b"keep-alive", b" Keep-Alive "])
async def test_a_connection_that_is_kept_is_plain(connection: bytes, full: LoadShedder) -> None:
    """So clients of HTTP/1.0 habits, which say that they keep it, are refused at once as well."""
    assert full.refuse(POST + b"Connection:" + connection + b"\r\n\r\n" + BODY) is not None


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (b"/orders", "/orders"),
        (b"/orders?limit=3", "/orders"),
        (b"/orders/0192", "/orders/{order_id}"),
        (b"/orders/0192/other", "unmatched"),
    ],
)
async def test_a_refusal_counts_for_its_route(path: bytes, route: str, full: LoadShedder) -> None:
    """As it would have counted inside, also if a part of the path is an id."""
    assert full.refuse(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n") is not None
    assert full._metrics.requests.labels("GET", route, "503")._value.get() == 1


async def test_every_refusal_is_logged(full: LoadShedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of the last second of a burst, after which nothing comes."""
    monkeypatch.setattr(load_shedding, "_LOG_EVERY_S", 0.02)
    with structlog.testing.capture_logs() as logs:
        for burst in (3, 2):
            for _ in range(burst):
                assert full.refuse(GET) is not None
            await asyncio.sleep(0.2)
    assert [line["requests"] for line in logs if line["event"] == "refused"] == [3, 2]


@pytest.fixture
def narrow(migrated: Databases, tmp_path: Path) -> Iterator[Server]:
    """An inventory service that answers one request at a time."""
    environment = {"INVENTORY_DATABASE_URL": migrated.service_urls["inventory"], "INVENTORY_DRAIN_DELAY_S": "0"}
    service = ServiceProcess("inventory", environment, tmp_path / "inventory.log")
    yield Server(service.start(INVENTORY_REQUESTS_IN_FLIGHT_MAX="1").url)
    service.stop()


def test_a_connection_lives_on_after_a_refusal(narrow: Server, servers: Servers, books: Books) -> None:
    """Refused in one piece and in two, then served, all over one connection; and health is answered throughout."""
    sku = servers.new_sku(10)
    body = f'{{"sku":"{sku}","quantity":1}}'.encode()
    head = POST.replace(b"24", str(len(body)).encode()) + b"\r\n"
    host, port = narrow.url.removeprefix("http://").split(":")
    with (
        socket.create_connection((host, int(port)), 10) as first,
        socket.create_connection((host, int(port))) as second,
    ):
        second.settimeout(10)
        with books.row_locked("inventory", "SELECT * FROM inventory WHERE sku = %s FOR UPDATE", sku):
            first.sendall(head + body)
            wait_until(lambda: exchange(second, GET) == 503)
            assert exchange(second, head + body) == 503
            second.sendall(head)
            assert exchange(second, body) == 503
            assert exchange(second, head + body) == 503
            assert exchange(second, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") == 200
        assert int(first.recv(65_536)[9:12]) == 200
        assert exchange(second, head + body) == 200
    assert 'route="/inventory/decrease",status="503"' in narrow.get("/metrics").body.decode()


def test_who_sends_slowly_takes_nobodys_place(narrow: Server, servers: Servers) -> None:
    """A request counts from when it is there as a whole: half bodies keep nobody else out."""
    sku = servers.new_sku(10)
    host, port = narrow.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as connections:
        for _ in range(20):
            slow = connections.enter_context(socket.create_connection((host, int(port)), 10))
            slow.sendall(POST + b"\r\n" + BODY[:5])
        for _ in range(5):
            assert narrow.post("/inventory/decrease", {"sku": sku, "quantity": 1}).status == 200


def test_the_rest_of_a_request_is_not_taken_for_another(narrow: Server, servers: Servers, books: Books) -> None:
    """Its beginning came together with the request before it, and its rest looks like a request of its own."""
    sku = servers.new_sku(10)
    body = f'{{"sku":"{sku}","quantity":1}}'.encode()
    host, port = narrow.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as connections:
        first, second, third = (
            connections.enter_context(socket.create_connection((host, int(port)), 10)) for _ in range(3)
        )
        assert exchange(second, GET) == 404
        assert exchange(second, GET + b"GET /livez HTTP/1.1\r\nX-Begun: ") == 404
        with books.row_locked("inventory", "SELECT * FROM inventory WHERE sku = %s FOR UPDATE", sku):
            first.sendall(POST.replace(b"24", str(len(body)).encode()) + b"\r\n" + body)
            wait_until(lambda: exchange(third, GET) == 503)
            assert exchange(second, GET) == 200
            assert exchange(second, GET) == 503
        assert int(first.recv(65_536)[9:12]) == 200


async def test_who_does_not_read_is_not_answered_without_end(full: LoadShedder) -> None:
    """Requests arrive one by one on one connection whose answers nobody takes: the service soon stops reading them."""
    app = web.Application()
    app[LOAD_SHEDDER], app[DRAINING] = full, asyncio.Event()
    runner = Runner(app)
    await runner.setup()
    loop = asyncio.get_running_loop()
    client, accepted = socket.socketpair()
    client.setblocking(False)
    assert runner.server is not None
    transport, _ = await loop.connect_accepted_socket(runner.server, accepted)
    await asyncio.sleep(0.05)
    with client, contextlib.suppress(TimeoutError):
        while transport.get_write_buffer_size() < 1_000_000:
            await asyncio.wait_for(loop.sock_sendall(client, GET), 1)
            # Two turns of the loop: in the first it sees what has come, in the second it reads it.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        pytest.fail("nothing kept the client from sending")
    assert full._metrics.requests.labels("GET", "unmatched", "503")._value.get() > 100
    transport.abort()
    await runner.cleanup()


def exchange(connection: socket.socket, data: bytes) -> int:
    """The status of the reply, which is short enough to come in one piece."""
    connection.sendall(data)
    return int(connection.recv(65_536)[9:12])
