"""The door of a service that is full: refused before anything is done, and never mistaken for anything else."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.door import Door
from common.middleware import UNLOGGED
from common.telemetry import Metrics
from tests.e2e.conftest import Books, Servers, wait_until
from tests.e2e.raw import Server
from tests.processes import ServiceProcess
from vv.databases import Databases

BODY = b'{"sku":"X","quantity":1}'
POST = b"POST /inventory/decrease HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 24\r\n"


@pytest.fixture
def full() -> Door:
    metrics = Metrics("test")
    door = Door(1, metrics, open_to_all=UNLOGGED, known={"/inventory/decrease"})
    door.in_flight = 1
    return door


def test_a_whole_request_is_refused(full: Door) -> None:
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
        POST + b"Content-Length: 24\r\n\r\n" + BODY,
        POST,
        BODY,
        b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez?x=1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01 nonsense",
    ],
)
def test_what_is_not_a_plain_request_goes_the_usual_way(data: bytes, full: Door) -> None:
    """Pieces, pipelines, what ends otherwise than by its length, and health checks."""
    assert full.refuse(data) is None


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
            wait_until(lambda: exchange(second, b"GET /inventory/sku?sku=none HTTP/1.1\r\nHost: x\r\n\r\n") == 503)
            assert exchange(second, head + body) == 503
            second.sendall(head)
            assert exchange(second, body) == 503
            assert exchange(second, head + body) == 503
            assert exchange(second, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") == 200
        assert int(first.recv(65_536)[9:12]) == 200
        assert exchange(second, head + body) == 200
    assert 'route="/inventory/decrease",status="503"' in narrow.get("/metrics").body.decode()


def exchange(connection: socket.socket, data: bytes) -> int:
    """The status of the reply, which is short enough to come in one piece."""
    connection.sendall(data)
    return int(connection.recv(65_536)[9:12])
