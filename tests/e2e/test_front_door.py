"""The front door: real nginx in front of real services, and in front of servers that write down what reaches them."""

import asyncio
import contextlib
import json
import re
import ssl
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import uuid4

import aiohttp
import pytest

from common.clients import AsyncOrderClient
from common.contracts.access import Scope
from tests.conftest import MakeSku
from tests.e2e.conftest import MakeDoor, urls_of, wait_until
from tests.e2e.raw import Answer, Server, assert_problem, read_answer
from tests.front_door import FrontDoorProcess, Upstream, answers_ok
from tests.processes import Services
from tests.route_tables import ENDPOINTS, KIT_PATHS, Endpoint

SERVICES = ("order", "inventory", "payment")
SECURITY_HEADERS = {
    "Strict-Transport-Security": "max-age=0",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Server": "nginx",
}
JSON = b"Content-Type: application/json\r\n"
T = TypeVar("T")


class TestRouting:
    async def test_a_purchase_from_stock_to_refund(self, door: FrontDoorProcess, make_sku: MakeSku) -> None:
        """Every open endpoint, through one origin, with the client library."""
        sku = f"SKU-{uuid4().hex[:12]}"
        assert door.post("/inventory/create", {"product_id": sku, "sku": sku, "quantity": 5}).status == 201
        more = {"sku": sku, "quantity": 5, "request_id": uuid4().hex}
        assert door.post("/inventory/increase", more).status == 200
        async with AsyncOrderClient(door.url, tls=door.tls) as orders:
            order = await orders.create(user_id="ann", sku=sku, quantity=3, total_amount=700)
            assert order.status == "completed"
            assert await orders.get(order.order_id) == order
            assert (await orders.events(order.order_id)).events
        assert door.get("/inventory/sku", sku=sku).json()["quantity"] == 7
        assert len(door.get("/inventories", product_id=sku).json()["items"]) == 1
        assert len(door.get("/inventory/ledger", sku=sku).json()["items"]) == 3
        assert door.get("/payments", order_id=order.order_id).json()["amount"] == 700
        assert door.post("/payments/refund", {"order_id": order.order_id, "amount": 1}).status == 200
        assert door.patch("/orders", {"order_id": order.order_id, "status": "cancelled"}).status == 200

    @pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
    def test_users_endpoints_are_open_and_no_others(self, endpoint: Endpoint, door: FrontDoorProcess) -> None:
        """What the route tables leave to users reaches its service; what is internal is not there."""
        answer = door.call(endpoint.route.method, endpoint.route.path.replace("{order_id}", str(uuid4())))
        if isinstance(endpoint.route.access.scope, Scope):
            assert (answer.status, answer.json().get("code")) != (404, "route_not_found")
        else:
            assert_problem(answer, 404, "route_not_found")
        said = endpoint.route.access.scope is not None
        assert logged(door, answer)["upstream"] == (upstream_of(door, endpoint.service) if said else "")

    @pytest.mark.parametrize("path", [*KIT_PATHS[1:], "/", "/orders-of-all", "/nginx_status", "/-/internal_error"])
    def test_everything_else_is_closed(self, path: str, door: FrontDoorProcess) -> None:
        """What the services have for those who run them, and what nginx has for itself."""
        for method in ("GET", "POST"):
            answer = door.call(method, path)
            assert_problem(answer, 404, "route_not_found")
            assert logged(door, answer)["upstream"] == ""

    @pytest.mark.parametrize("hidden", ["/metrics", "/inventory/decrease", "/payments/batch"])
    @pytest.mark.parametrize(
        "spelling",
        [
            "{0}/", "/{0}", "//{0}", "/.{0}", "/orders/..{0}", "/orders/%2e%2e{0}", "/orders/..%2f{1}",
            "/orders/%2e%2e%2f{1}",
            "/orders/x/../..{0}", "/inventory/sku/../..{0}", "/payments/refund/%2e%2e/%2e%2e{0}", "{0}?x=/orders",
            "{0}#/orders", "{0};x=/orders", "{0}%00", "{0}%20", "/%2f{1}", "{2}", "/orders/..%5c{1}", "{0}%3f",
            "/orders%2f..{0}", "/%6frders/..{0}", "http://test{0}", "/orders/%252e%252e{0}", "/orders/..%252f{1}",
        ],
    )  # fmt: skip
    def test_no_spelling_opens_what_is_closed(self, spelling: str, hidden: str, door: FrontDoorProcess) -> None:
        """Nothing but a refusal comes back, and the service of an internal route hears nothing of it."""
        path = spelling.format(hidden, hidden[1:], "".join(f"%{ord(letter):02x}" for letter in hidden))
        path = path if path.startswith(("/", "http")) else f"/{path}"
        for method in ("GET", "POST"):
            answer = door.call(method, path)
            assert answer.status in (400, 404, 405), (path, answer.status, answer.body[:200])
            assert logged(door, answer)["upstream"] in ("", upstream_of(door, "order"))

    def test_a_service_gets_the_path_that_was_decided_about(
        self, watched: FrontDoorProcess, upstream: Upstream
    ) -> None:
        """However it was spelt."""
        for path, target in (
            ("//orders/./x/..", "/orders/"),
            ("/%6frders/", "/orders/"),
            ("/orders/?a=%2f&b", "/orders/?a=%2f&b"),
            ("/inventory/x/../%73ku?sku=A%26B", "/inventory/sku?sku=A%26B"),
        ):
            # One after the other: each process of nginx has a connection of its own, by which they are in order here.
            before = Counter(upstream.requests)
            assert watched.get(path).status == 200
            [head] = (Counter(upstream.requests) - before).elements()
            assert head.split(" ")[1] == target

    def test_wrong_methods(self, door: FrontDoorProcess) -> None:
        """Those that no endpoint takes end here, the others at the service; both are 405 and say what is allowed."""
        for method, path in [
            ("DELETE", "/orders"),
            ("PUT", "/nowhere"),
            ("TRACE", "/orders"),
            ("X", "/"),
            ("OPTIONS", "/orders"),
        ]:
            answer = door.call(method, path)
            assert_problem(answer, 405, "method_not_allowed")
            assert logged(door, answer)["upstream"] == ""
        answer = door.call("PATCH", "/inventory/create")
        assert_problem(answer, 405, "method_not_allowed")
        assert answer.headers.get_all("Allow") == ["POST"]

    def test_charging_is_closed_where_reading_is_open(self, door: FrontDoorProcess) -> None:
        """POST /payments is how the order service charges."""
        for method in ("POST", "PATCH"):
            assert_problem(door.call(method, "/payments", b"{}"), 404, "route_not_found")
        assert_problem(door.get("/payments", order_id=str(uuid4())), 404, "payment_not_found")


def logged(door: FrontDoorProcess, answer: Answer) -> dict[str, object]:
    """The line of the access log about an answer."""
    request_id = answer.headers["X-Request-ID"]
    found: list[dict[str, object]] = []

    def look() -> bool:
        found[:] = [line for line in door.log_lines() if line["request_id"] == request_id]
        return bool(found)

    wait_until(look, 5)
    [line] = found
    return line


def upstream_of(door: FrontDoorProcess, service: str) -> str:
    configuration = (door.log.parent / "front-door" / "nginx.conf").read_text()
    found = re.search(rf"upstream {service}_service {{\s+server (\S+) ", configuration)
    assert found is not None
    return found[1]


class TestWhatIsSaid:
    def test_security_headers_and_the_request_id_are_in_every_answer(self, door: FrontDoorProcess) -> None:
        """Of a service and of nginx itself, once each, and the version is in none."""
        answers = [
            door.get("/livez"),
            door.get("/orders", limit=1),
            door.get(f"/orders/{uuid4()}"),
            door.get("/nowhere"),
            door.call("DELETE", "/orders"),
            door.post("/orders", b" " * 70_000),
            door.send(b"NONSENSE\r\n\r\n"),
            door.call("GET", "/livez", None, {"X-Long": "x" * 9_000}),
        ]
        assert [answer.status for answer in answers] == [200, 200, 404, 404, 405, 413, 400, 400]
        for answer in answers:
            for name, value in SECURITY_HEADERS.items():
                assert answer.headers.get_all(name) == [value], (answer.status, name)
            assert len(answer.headers.get_all("X-Request-ID", [])) == 1

    @pytest.mark.parametrize("request_id", ["mine-1.2_3", "x" * 64])
    def test_the_callers_request_id_is_kept(self, request_id: str, door: FrontDoorProcess) -> None:
        """In the answers of services and of nginx, and in the log."""
        for path in ("/orders/nonsense", "/nowhere"):
            answer = door.call("GET", path, None, {"X-Request-ID": request_id})
            assert answer.headers["X-Request-ID"] == answer.json()["request_id"] == request_id
        assert [line["path"] for line in door.log_lines() if line["request_id"] == request_id] == [
            "/orders/nonsense",
            "/nowhere",
        ]

    @pytest.mark.parametrize("request_id", ["x" * 65, 'a"b', "a b", "", "{}", "a\tb", "é"])
    def test_an_unfit_request_id_is_replaced(
        self, request_id: str, watched: FrontDoorProcess, upstream: Upstream
    ) -> None:
        """By one that the service and the answer have in common."""
        answer = watched.call("GET", "/orders", None, {"X-Request-ID": request_id})
        [passed_on] = headers_of(upstream.requests[0])["x-request-id"]
        assert passed_on == answer.headers["X-Request-ID"] != request_id
        assert re.fullmatch("[0-9a-f]{32}", passed_on)

    def test_what_reaches_a_service(self, watched: FrontDoorProcess, upstream: Upstream) -> None:
        """Who calls and until when, as said; where he is, as nginx sees it; nothing of the hop before."""
        said = {
            "Authorization": "Bearer a.b.c",
            "Idempotency-Key": "k",
            "X-Deadline-Ms": "900",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "X-Forwarded-For": "1.2.3.4",
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Proto": "http",
            "X-Real-IP": "1.2.3.4",
            "Forwarded": "for=1.2.3.4",
            "Cookie": "a=b",
            "TE": "trailers",
            "Upgrade": "h2c",
            "Proxy-Connection": "keep-alive",
            "X_Forwarded_For": "1.2.3.4",
        }
        assert watched.call("GET", "/orders", None, said).status == 200
        head = headers_of(upstream.requests[0])
        for name in ("Authorization", "Idempotency-Key", "X-Deadline-Ms"):
            assert head[name.lower()] == [said[name]]
        assert (head["x-forwarded-for"], head["x-forwarded-proto"]) == (["127.0.0.1"], ["https"])
        gone = {
            "x-forwarded-host",
            "x-real-ip",
            "forwarded",
            "cookie",
            "te",
            "upgrade",
            "connection",
            "x_forwarded_for",
        }
        assert gone & head.keys() == set()

    def test_the_log_keeps_secrets(self, door: FrontDoorProcess) -> None:
        """One JSON object a line, whatever is asked for, and neither tokens nor query strings."""
        answer = door.call(
            "GET",
            '/orders/%0d%0a"x\\?user_id=s3cret',
            None,
            {"Authorization": "Bearer s3cret", "Cookie": "s3cret", "User-Agent": 'curl"\\\t{}'},
        )
        line = logged(door, answer)
        assert (line["path"], line["method"], line["status"]) == ('/orders/%0d%0a"x\\', "GET", answer.status)
        assert line["agent"] == 'curl"\\\t{}'
        assert logged(door, door.call("POST", "/payments", b"{}"))["method"] == "POST"
        assert "s3cret" not in door.log.read_text()

    def test_plain_http_is_refused(self, door: FrontDoorProcess) -> None:
        """In plain HTTP, as whoever speaks it reads nothing else."""
        with door.connect_plainly() as connection:
            connection.sendall(b"GET /orders HTTP/1.1\r\nHost: test\r\n\r\n")
            assert_problem(read_answer(connection), 400, "malformed_http")

    @pytest.mark.parametrize(("version", "is_spoken"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
    def test_versions_of_tls(self, version: str, is_spoken: bool, door: FrontDoorProcess) -> None:
        """1.2 and 1.3."""
        context = ssl.create_default_context(cafile=str(door.door.ca))
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
        with (
            door.connect_plainly() as connection,
            contextlib.nullcontext() if is_spoken else pytest.raises(ssl.SSLError),
            context.wrap_socket(connection, server_hostname="localhost") as encrypted,
        ):
            assert encrypted.version() == version.replace("_", ".")


def headers_of(head: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


class TestLimits:
    def test_bodies(self, door: FrontDoorProcess) -> None:
        """64 KiB reach the service; one byte more does not, however its length is said."""
        for size, status, code in ((65_536, 400, "invalid_request"), (65_537, 413, "payload_too_large")):
            body = json.dumps({"user_id": "x"}).encode().ljust(size)
            assert_problem(door.post("/orders", body), status, code)
            chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)
            head = b"POST /orders HTTP/1.1\r\nHost: test\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
            assert_problem(door.send(head + chunks), status, code)

    @pytest.mark.parametrize(
        "head",
        [
            b"X-Long: " + b"x" * 8_200,
            b"\r\n".join(b"X-%d: %s" % (n, b"x" * 4_000) for n in range(10)),
            b"\r\n".join(b"X-%d: x" % n for n in range(10_000)),
        ],
        ids=["one long line", "several long lines", "many lines"],
    )
    def test_heads(self, head: bytes, watched: FrontDoorProcess, upstream: Upstream) -> None:
        """8 KiB a line, 32 KiB together; what is longer reaches no service."""
        answer = watched.send(b"GET /orders HTTP/1.1\r\nHost: test\r\n" + head + b"\r\n\r\n")
        assert_problem(answer, 400, "malformed_http")
        assert upstream.connections == []

    def test_long_paths(self, watched: FrontDoorProcess, upstream: Upstream) -> None:
        """As long as a line of the head may be."""
        assert watched.get(f"/orders/{'x' * 7_000}").status == 200
        assert_problem(watched.get(f"/orders/{'x' * 9_000}"), 400, "malformed_http")
        assert len(upstream.requests) == 1

    def test_requests_of_one_address(self, services: Services, make_door: MakeDoor) -> None:
        """Of sixty at once exactly one and the burst pass; the rest is told to come again, and others pass as ever."""
        door = make_door(urls_of(services), FRONT_DOOR_RATE_PER_IP="1r/m", FRONT_DOOR_BURST_PER_IP="10")
        # Its own question whether it is there came from 127.0.0.1, too, but is answered without a look at limits.
        answers = at_once(60, lambda n: door.get("/orders", limit=1))
        assert Counter(answer.status for answer in answers) == {200: 11, 429: 49}
        refusal = next(answer for answer in answers if answer.status == 429)
        assert_problem(refusal, 429, "too_many_requests")
        assert refusal.headers.get_all("Retry-After") == ["1"]
        assert refusal.json()["retry_after_s"] == 1
        door.source = "127.0.0.2"
        assert door.get("/orders", limit=1).status == 200

    def test_requests_of_one_user(self, services: Services, make_door: MakeDoor) -> None:
        """A token's allowance is one, wherever it comes from and however it is written; another's is another one."""
        door = make_door(urls_of(services), FRONT_DOOR_RATE_PER_USER="1r/m", FRONT_DOOR_BURST_PER_USER="4")
        token = f"{'h' * 20}.{'p' * 50}.{'s' * 86}"
        spellings = [
            f"Bearer {token}", f"bearer {token}", f"BEARER   {token}", f"Bearer {token}=", f"Bearer {token[:-1]}t",
            f"Bearer {token}!",
        ]  # fmt: skip

        def call(authorization: str) -> int:
            return door.call("GET", "/orders?limit=1", None, {"Authorization": authorization}).status

        statuses = at_once(30, lambda n: call(spellings[n % len(spellings)]))
        assert Counter(statuses) == {200: 5, 429: 25}
        # The same header and claims, as anybody can write them, with a signature of his own.
        forged = f"Bearer {token.replace('s' * 86, 'f' * 86)}"
        assert Counter(at_once(10, lambda _: call(forged))) == {200: 5, 429: 5}
        assert call(f"Bearer {token.replace('h', 'i')}") == 429
        assert Counter(at_once(10, lambda n: call(f"Basic {n}"))) == {200: 5, 429: 5}
        assert Counter(at_once(10, lambda _: door.get("/orders", limit=1).status)) == {200: 10}

    def test_requests_under_way_of_one_address(self, make_door: MakeDoor) -> None:
        """So many at once, and no more."""
        slow = Upstream(lambda head, n: time.sleep(0.7) or answers_ok(head, n))  # type: ignore[func-returns-value]
        door = make_door(dict.fromkeys(SERVICES, slow.url), FRONT_DOOR_CONNECTIONS_PER_IP="5")
        assert Counter(at_once(20, lambda _: door.get("/orders").status)) == {200: 5, 429: 15}
        assert door.get("/orders").status == 200
        slow.close()

    def test_who_stands_behind_a_load_balancer(self, upstream: Upstream, make_door: MakeDoor) -> None:
        """Is told apart by what that says, if it is trusted, but not within one network of IPv6."""
        twice = {"FRONT_DOOR_RATE_PER_IP": "1r/m", "FRONT_DOOR_BURST_PER_IP": "1"}
        trusting = make_door(dict.fromkeys(SERVICES, upstream.url), FRONT_DOOR_TRUSTED_PROXY="127.0.0.1", **twice)
        doubting = make_door(dict.fromkeys(SERVICES, upstream.url), **twice)

        def statuses(door: Server) -> list[int]:
            clients = [
                "9.9.9.9", "1.1.1.1, 9.9.9.9", "9.9.9.9", "9.9.9.8",
                "2001:db8::1", "2001:db8::ffff:1", "2001:db8::2", "2001:db8:0:1::1",
            ]  # fmt: skip
            return [door.call("GET", "/orders", None, {"X-Forwarded-For": each}).status for each in clients]

        assert statuses(trusting) == [200, 200, 429, 200, 200, 200, 429, 200]
        assert statuses(doubting) == [200, 200] + 6 * [429]

    async def test_five_hundred_clients_at_once(self, door: FrontDoorProcess) -> None:
        """Are all served."""
        arrived = asyncio.Barrier(500)

        async def call() -> int:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=door.tls)) as session:
                async with session.get(f"{door.url}/livez") as first:
                    assert first.status == 200
                await arrived.wait()
                async with session.get(f"{door.url}/orders?limit=1") as reply:
                    await reply.read()
                    return reply.status

        async with asyncio.timeout(30):
            assert Counter(await asyncio.gather(*(call() for _ in range(500)))) == {200: 500}


def at_once(many: int, call: Callable[[int], T]) -> list[T]:
    with ThreadPoolExecutor(many) as pool:
        return list(pool.map(call, range(many)))
