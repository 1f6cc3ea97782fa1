"""The front door and the wire: what is repeated and what is not, requests in disguise, slow clients, certificates."""

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import log_of
from tests.e2e.conftest import MakeDoor, wait_until
from tests.e2e.raw import assert_problem, read_answer
from tests.e2e.slow import (
    CUT_WITHIN_S,
    HEAD,
    BeSlow,
    begins_a_body,
    begins_a_second_head,
    dribble,
    goes_on_with_a_body,
    goes_on_with_a_head,
    life,
    read_to_the_end,
    reads_nothing_of,
    says_nothing,
    send_half_a_body,
)
from tests.front_door import FrontDoorProcess, Upstream, answers_ok
from tests.processes import Services
from vv.databases import Databases
from vv.front_door import Nginx

SERVICES = ("order", "inventory", "payment")
BODY = b'{"user_id": "ann"}'


class Pair:
    """Two servers of one service. The first request that reaches either of them is cut off in its middle."""

    def __init__(self) -> None:
        self._is_first = True
        self.servers = [Upstream(self._answer), Upstream(self._answer)]

    def _answer(self, head: bytes, number: int) -> bytes | None:
        was_first, self._is_first = self._is_first, False
        return None if was_first else answers_ok(head, number)

    @property
    def url(self) -> str:
        # As several addresses of one name would be.
        return f"http://{'; server '.join(server.address for server in self.servers)}"

    @property
    def seen(self) -> list[int]:
        return sorted(len(server.requests) for server in self.servers)

    def close(self) -> None:
        for server in self.servers:
            server.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    servers = Pair()
    yield servers
    servers.close()


class TestRepeating:
    def test_a_get_is_repeated_at_the_other_server(self, pair: Pair, make_door: MakeDoor) -> None:
        """The caller notices nothing."""
        door = make_door(dict.fromkeys(SERVICES, pair.url))
        assert door.get("/orders").status == 200
        assert pair.seen == [1, 1]

    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    def test_nothing_else_is(self, method: str, pair: Pair, make_door: MakeDoor) -> None:
        """It may have taken effect: the caller is told that the outcome is unknown, and decides himself."""
        door = make_door(dict.fromkeys(SERVICES, pair.url))
        answer = door.send_json(method, "/orders", BODY)
        assert_problem(answer, 503, "service_unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert pair.seen == [0, 1]
        assert door.send_json(method, "/orders", BODY).status == 200
        assert sum(pair.seen) == 2

    @pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
    def test_who_is_not_there_has_got_nothing(self, method: str, make_door: MakeDoor) -> None:
        """A server that takes no connections costs nothing but a moment; the other one gets each request once."""
        gone, there = Upstream(), Upstream()
        gone.close()
        door = make_door(dict.fromkeys(SERVICES, f"{gone.url}; server {there.address}"))
        for _ in range(6):
            assert door.send_json(method, "/orders", BODY).status == 200
        assert len(there.whole_requests) == 6
        there.close()

    def test_a_service_that_is_not_there(self, make_door: MakeDoor, pair: Pair) -> None:
        """503, at once, and worth another try."""
        pair.close()
        door = make_door(dict.fromkeys(SERVICES, pair.url))
        for method in ("GET", "POST"):
            problem = assert_problem(door.send_json(method, "/orders", BODY), 503, "service_unavailable")
            assert problem["retryable"] is True

    def test_connections_to_services_are_kept(self, make_door: MakeDoor) -> None:
        """Twenty clients, one after the other, need no more than one of each nginx worker."""
        upstream = Upstream()
        door = make_door(dict.fromkeys(SERVICES, upstream.url))
        for _ in range(20):
            assert door.get("/orders").status == 200
        assert len(upstream.requests) == 20
        assert len(upstream.connections) < 10
        upstream.close()

    def test_who_is_told_to_end_finishes(self, make_door: MakeDoor) -> None:
        """As ``vv up`` tells it: no new connections, but the answer to what was asked."""
        upstream = Upstream(lambda head, n: time.sleep(1) or answers_ok(head, n))  # type: ignore[func-returns-value]
        door = make_door(dict.fromkeys(SERVICES, upstream.url))
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(door.get, "/orders")
            wait_until(lambda: bool(upstream.requests), 5)
            assert door.stop(Nginx.stop_signal) == 0
            assert answer.result().status == 200
        assert not door.is_ready()
        upstream.close()

    def test_a_services_own_answers_are_passed_on(self, make_door: MakeDoor) -> None:
        """Also its errors, as they are."""
        body = b'{"code": "overloaded"}'
        reply = (
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 7\r\n"
            b"WWW-Authenticate: Bearer\r\nServer: aiohttp\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        upstream = Upstream(lambda _, __: reply)
        answer = make_door(dict.fromkeys(SERVICES, upstream.url)).get("/orders")
        assert (answer.status, answer.body) == (503, body)
        assert answer.headers.get_all("Retry-After") == ["7"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers.get_all("Server") == ["nginx"]
        upstream.close()


POST = b"POST /orders HTTP/1.1\r\nHost: test\r\n"
HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n"
SMUGGLED = b"0\r\n\r\n" + HIDDEN
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
DISGUISES = {
    "a length and chunks": POST + b"Content-Length: 42\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "chunks and a length": CHUNKED + b"Content-Length: 5\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "one length twice": POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "a list of lengths": POST + b"Content-Length: 0, 0\r\n\r\n" + HIDDEN,
    "a signed length": POST + b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "a hexadecimal length": POST + b"Content-Length: 0x0\r\n\r\n" + HIDDEN,
    "a huge length": POST + b"Content-Length: 99999999999999999999\r\n\r\n" + HIDDEN,
    "chunked twice": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "an unknown coding": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + SMUGGLED,
    "a coding nearly known": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
    "a blank before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + SMUGGLED,
    "a folded line": POST + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + SMUGGLED,
    "a bare CR": POST + b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "a NUL": POST + b"X: y\0\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "chunks of HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "a chunk of a bad size": CHUNKED + b"\r\nxyz\r\n" + SMUGGLED,
    "a chunk of a signed size": CHUNKED + b"\r\n-1\r\n" + SMUGGLED,
    "a chunk of a huge size": CHUNKED + b"\r\nfffffffffffffffff\r\n" + SMUGGLED,
    "a chunk that is longer than it says": CHUNKED + b"\r\n1\r\nabc\r\n" + SMUGGLED,
    "no host": b"GET /orders HTTP/1.1\r\n\r\n" + HIDDEN,
    "two hosts": b"GET /orders HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + HIDDEN,
    "a blank in the path": b"GET /orders /metrics HTTP/1.1\r\nHost: test\r\n\r\n",
    "a line that begins with a blank": b" GET /orders HTTP/1.1\r\nHost: test\r\n\r\n",
    "a version of the future": b"GET /orders HTTP/3.1\r\nHost: test\r\n\r\n",
    "HTTP/2 without being asked": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a method in small letters": b"get /orders HTTP/1.1\r\nHost: test\r\n\r\n",
}


class TestDisguises:
    @pytest.mark.parametrize("shape", DISGUISES)
    def test_an_ambiguous_request_is_refused(self, shape: str, watched: FrontDoorProcess, upstream: Upstream) -> None:
        """With 400, as the last one of its connection, and nothing of it reaches a service as a whole request."""
        with watched.connect() as connection:
            connection.sendall(DISGUISES[shape])
            answer = read_answer(connection)
            assert_problem(answer, 400, "malformed_http")
            assert read_to_the_end(connection) == b""
        assert [head for head in upstream.requests if "metrics" in head] == []
        assert upstream.whole_requests == []

    def test_a_chunk_that_goes_wrong_later(self, watched: FrontDoorProcess, upstream: Upstream) -> None:
        """When a service has got the beginning already, it never gets an end, nor anything else on that connection."""
        with watched.connect() as connection:
            connection.sendall(CHUNKED + b"\r\n1\r\n{\r\n")
            wait_until(lambda: bool(upstream.requests), 5)
            connection.sendall(b"xyz\r\n" + SMUGGLED)
            assert_problem(read_answer(connection), 400, "malformed_http")
        assert watched.get("/orders").status == 200
        assert [head.split("\r\n")[0] for head in upstream.requests] == [
            "POST /orders HTTP/1.1",
            "GET /orders HTTP/1.1",
        ]
        assert len(upstream.connections) == 2

    @pytest.mark.parametrize(
        "raw",
        [
            b"GET /orders HTTP/1.1\nHost: test\nConnection: close\n\n",
            POST.replace(b"\r\n", b"\n") + b"Connection: close\nContent-Length: %d\n\n" % len(HIDDEN) + HIDDEN,
            POST + b"Connection: close\nTransfer-Encoding: chunked\r\n\r\n%x\n%s\n0\n\n" % (len(HIDDEN), HIDDEN),
        ],
        ids=["head", "head and length", "chunks"],
    )
    def test_bare_line_feeds_end_lines(self, raw: bytes, watched: FrontDoorProcess, upstream: Upstream) -> None:
        """nginx takes them for ends of lines, and cannot be told otherwise. A service gets one request, in proper
        lines, as nginx writes each head and each body anew."""
        with watched.connect() as connection:
            connection.sendall(raw)
            assert read_answer(connection).status in (200, 400)
            assert read_to_the_end(connection) == b""
        assert len(upstream.whole_requests) <= 1
        for data in upstream.connections:
            head = bytes(data).split(b"\r\n\r\n")[0]
            assert re.search(rb"[^\r]\n", head) is None

    def test_requests_in_a_row_are_two(self, watched: FrontDoorProcess, upstream: Upstream) -> None:
        """A body that looks like a request is none, and what follows it is the next one."""
        with watched.connect() as connection:
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN + HIDDEN)
            statuses = [read_answer(connection).status for _ in range(2)]
        assert statuses == [200, 404]
        assert len(upstream.whole_requests) == 1


def never_begins_tls(_: socket.socket) -> None:
    """Connects, and that is all."""


def goes_on_with_a_body_that_nobody_wants(connection: socket.socket) -> None:
    connection.sendall(HEAD.replace(b"/orders", b"/nowhere") + b"Content-Length: 1000\r\n\r\n")
    dribble(connection, b" ")


SLOW: list[BeSlow] = [
    never_begins_tls,
    says_nothing,
    goes_on_with_a_head,
    begins_a_second_head,
    begins_a_body,
    goes_on_with_a_body,
    goes_on_with_a_body_that_nobody_wants,
    reads_nothing_of("/orders?limit=100"),
]


class TestSlowClients:
    @pytest.mark.alone
    def test_all_are_cut_off_and_nobody_else_notices(self, door: FrontDoorProcess) -> None:
        """Within ten seconds, whatever they are slow with, while others are served as ever."""
        with ThreadPoolExecutor(len(SLOW) * 5 + 1) as pool:
            lives = {kind: [pool.submit(_life, door, kind) for _ in range(5)] for kind in SLOW}
            told = pool.submit(send_half_a_body, door)
            took = []
            while not all(life.done() for kind in SLOW for life in lives[kind]):
                started = time.monotonic()
                assert door.get("/orders", limit=1).status == 200
                took.append(time.monotonic() - started)
                time.sleep(0.1)
            lived = {kind.__name__: max(life.result() for life in lives[kind]) for kind in SLOW}
        assert {name: seconds for name, seconds in lived.items() if seconds > CUT_WITHIN_S} == {}
        assert len(took) > 20
        assert max(took) < 2
        # Before he is cut off, in case that he reads.
        assert_problem(told.result(), 400, "malformed_http")


def _life(door: FrontDoorProcess, be_slow: BeSlow) -> float:
    with door.connect_plainly() if be_slow is never_begins_tls else door.connect() as connection:
        return life(connection, be_slow)


@pytest.fixture(scope="module")
def secured(
    reached_by_socket: None, migrated: Databases, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """Services that talk to those with certificates only; two of them are enough."""
    services = Services(migrated.service_urls, tmp_path_factory.mktemp("secured"), certificates)
    services.order.start()
    services.payment.start()
    yield services
    services.stop()


class TestCertificates:
    def test_services_know_the_front_door_and_still_ask_for_a_user(
        self, secured: Services, make_door: MakeDoor
    ) -> None:
        """Its certificate opens the connection, and no more than that."""
        door = make_door({service.name: service.url for service in secured.all})
        answer = door.get("/orders", limit=1)
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert_problem(door.call("GET", "/orders", None, {"Authorization": "Bearer x"}), 401, "unauthenticated")

    def test_another_service_in_its_place_is_not_believed(self, secured: Services, make_door: MakeDoor) -> None:
        """A certificate of the same authority with another name: tokens are not sent there."""
        urls = {service.name: service.url for service in secured.all}
        door = make_door(urls | {"order": secured.payment.url})
        answer = door.call("GET", "/orders", None, {"Authorization": "Bearer x"})
        assert_problem(answer, 503, "service_unavailable")
        # nginx's own: it has sent nothing.
        wait_until(lambda: '"upstream_status":"502"' in door.log.read_text(), 5)
        assert "/orders" not in log_of(secured.payment.log)
