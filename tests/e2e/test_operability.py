"""What an operator relies on: probes, metrics, the API document, logs, shutting down, and clear mistakes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.parser import text_string_to_metric_families

import order_service.settings
from common.settings import read_settings
from tests.conftest import log_of
from tests.database_server import DatabaseServer
from tests.e2e.conftest import Books, Servers, wait_until
from tests.e2e.raw import Answer, Server, assert_problem
from tests.e2e.scraped import metric, samples
from tests.processes import FAST_RECOVERY, ServiceProcess, Services, free_port
from tests.route_tables import ENDPOINTS, ROUTES, Endpoint
from vv.databases import Databases

StartService = Callable[..., ServiceProcess]
each_service = pytest.mark.parametrize("service", ROUTES)


@pytest.fixture
def start_service(services: Services, migrated: Databases, tmp_path: Path) -> Iterator[StartService]:
    """Starts one more instance of a service, with settings of its own, beside the others."""
    environment = FAST_RECOVERY | {
        "ORDER_INVENTORY_URL": services.inventory.url,
        "ORDER_PAYMENT_URL": services.payment.url,
    }
    with ExitStack() as running:

        def start(name: str, **settings: str) -> ServiceProcess:
            database = {f"{name.upper()}_DATABASE_URL": migrated.service_urls[name]}
            service = ServiceProcess(name, environment | database, tmp_path / f"{name}.log")
            running.callback(lambda: service.process.poll() is None and service.stop())
            return service.start(**settings)

        yield start


def order_of(servers: Servers, **fields: Any) -> dict[str, Any]:
    return {"user_id": f"user-{uuid4().hex}", "sku": servers.new_sku(), "total_amount": 700, **fields}


class TestProbes:
    @each_service
    @pytest.mark.parametrize(("path", "status"), [("/livez", "alive"), ("/readyz", "ready"), ("/health", "ready")])
    def test_healthy_service_says_so(self, service: str, path: str, status: str, servers: Servers) -> None:
        """200 with a word on it."""
        answer = servers.of(service).get(path)
        assert (answer.status, answer.json()) == (200, {"status": status})

    def test_service_without_its_database_is_alive_and_not_ready(self, tmp_path: Path) -> None:
        """/readyz tells what is missing, and no password; /livez stays 200, for a restart would not help."""
        url = "mysql://someone:TopSecret@127.0.0.1:1/nowhere"
        process = ServiceProcess("payment", {"PAYMENT_DATABASE_URL": url}, tmp_path / "log")
        with not_ready(process) as server:
            answer = server.get("/readyz")
            assert_problem(answer, 503, "service_unavailable")
            assert answer.headers["Retry-After"] == "1"
            assert "database" in answer.json()["detail"]
            assert server.get("/livez").status == 200
            assert metric(server, "vv_db_failures_total", errno="2003") >= 1
        assert "TopSecret" not in log_of(process.log) + answer.body.decode()

    def test_service_with_an_unmigrated_database_is_not_ready(
        self, database_server: DatabaseServer, tmp_path: Path
    ) -> None:
        """It names the migration that is missing, and the command that applies it."""
        url = database_server.url("mysql")
        process = ServiceProcess("order", {"ORDER_DATABASE_URL": url}, tmp_path / "log")
        with not_ready(process) as server:
            detail = server.get("/readyz").json()["detail"]
        assert re.search(r"migration \d{4}_\w+; run: vv migrate apply", detail)


@contextmanager
def not_ready(process: ServiceProcess) -> Iterator[Server]:
    """A service that runs and does not become ready."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.processes._READY_WITHIN_S", 0.5)
        with pytest.raises(AssertionError, match="is not ready"):
            process.start()
    try:
        wait_until(lambda: listens(process.port))
        yield Server(process.url)
    finally:
        assert process.stop() == 0


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class TestMetrics:
    @each_service
    def test_requests_are_counted_by_route_and_status(self, service: str, servers: Servers) -> None:
        """Route templates, not paths: an attacker's paths make no series of their own."""
        server, route = servers.of(service), ROUTES[service][1]
        labels = {"method": route.method, "route": route.path, "status": "400"}
        before = metric(server, "vv_http_requests_total", **labels)
        server.call(route.method, f"{route.path}?bogus=1", b"{}", {"Content-Type": "application/json"})
        assert metric(server, "vv_http_requests_total", **labels) == before + 1

    def test_latency_is_measured(self, servers: Servers) -> None:
        """One observation a request, in the right order of magnitude."""
        labels = {"method": "GET", "route": "/orders/{order_id}"}
        name = "vv_http_request_duration_seconds"
        before = metric(servers.order, f"{name}_count", **labels), metric(servers.order, f"{name}_sum", **labels)
        servers.order.get("/orders/01890000-0000-7000-8000-000000000000")
        assert metric(servers.order, f"{name}_count", **labels) == before[0] + 1
        assert 0 < metric(servers.order, f"{name}_sum", **labels) - before[1] < 5

    @each_service
    def test_pool_use_and_wait_are_measured(self, service: str, servers: Servers) -> None:
        """/readyz takes a connection and gives it back."""
        server = servers.of(service)
        before = metric(server, "vv_db_pool_wait_seconds_count")
        server.get("/readyz")
        assert metric(server, "vv_db_pool_wait_seconds_count") > before
        assert metric(server, "vv_db_pool_connections_in_use") <= 2

    def test_transactions_that_are_run_again_are_counted(
        self, servers: Servers, books: Books, start_service: StartService
    ) -> None:
        """A row that stays locked longer than the service waits: the transaction is run again, and succeeds."""
        sku = servers.new_sku(10)
        server = Server(start_service("inventory", INVENTORY_LOCK_WAIT_S="1").url)
        with ThreadPoolExecutor(1) as pool:
            with books.row_locked("inventory", "SELECT * FROM inventory WHERE sku = %s FOR UPDATE", sku):
                answer = pool.submit(server.post, "/inventory/decrease", {"sku": sku, "quantity": 1})
                wait_until(lambda: metric(server, "vv_db_transaction_retries_total", errno="1205") >= 1)
            assert answer.result().json()["items"] == [{"sku": sku, "delta": -1, "quantity": 9}]

    def test_orders_are_counted_by_state(self, servers: Servers) -> None:
        """Each status that is reached, from created on; and how many are not final now."""
        path = ("created", "inventory_reserved", "paid", "completed")
        before = [metric(servers.order, "vv_order_transitions_total", status=status) for status in path]
        servers.order.post("/orders", order_of(servers))
        after = [metric(servers.order, "vv_order_transitions_total", status=status) for status in path]
        assert after == [count + 1 for count in before]
        unfinished = {sample["status"] for sample in samples(servers.order, "vv_orders_unfinished")}
        assert unfinished == {"created", "inventory_reserved", "paid", "failing", "cancelling"}

    def test_recovery_is_counted(self, servers: Servers) -> None:
        """By the state in which it left what it took up."""
        before = metric(servers.order, "vv_recovery_items_total", state="completed")
        assert servers.order.post("/orders", order_of(servers, payment_method="tok_timeout")).status == 202
        wait_until(lambda: metric(servers.order, "vv_recovery_items_total", state="completed") > before)
        assert metric(servers.payment, "vv_recovery_items_total", state="captured") >= 1

    @each_service
    def test_names_follow_the_conventions(self, service: str, servers: Servers) -> None:
        """Prefixed, documented, and in base units."""
        text = servers.of(service).get("/metrics").body.decode()
        families = [family for family in text_string_to_metric_families(text) if not family.name.startswith("process_")]
        assert {"vv_http_requests", "vv_db_transaction_retries", "vv_recovery_items"} <= {f.name for f in families}
        assert [family.name for family in families if not family.documentation or family.name[:3] != "vv_"] == []


class TestApiDocument:
    @each_service
    def test_document_is_valid_openapi(self, service: str, servers: Servers) -> None:
        """Version 3.1, by the validator of the OpenAPI community."""
        answer = servers.of(service).get("/openapi.json")
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.json()["openapi"].startswith("3.1.")
        assert [error.message for error in OpenAPIV31SpecValidator(answer.json()).iter_errors()] == []

    @pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
    def test_every_endpoint_is_described(self, endpoint: Endpoint, servers: Servers) -> None:
        """With its parameters, its body, and each status that it answers with."""
        route = endpoint.route
        described = document(servers, endpoint.service)["paths"][route.path][route.method.lower()]
        models = [model for model in (route.query, route.headers) if model]
        names = {info.alias or name for model in models for name, info in model.model_fields.items()}
        assert {parameter["name"] for parameter in described["parameters"]} == names
        assert ("requestBody" in described) == (route.body is not None)
        statuses = {*route.replies, *(error.status for error in route.errors), 400, 500, 503}
        assert {str(status) for status in statuses} <= described["responses"].keys()
        assert described["summary"]

    @each_service
    def test_every_reference_resolves(self, service: str, servers: Servers) -> None:
        """Within the document, so that generators need nothing else."""
        found = document(servers, service)
        references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(found)))
        assert references
        for reference in references:
            assert reference.startswith("#/components/schemas/")
            assert reference.rsplit("/", 1)[1] in found["components"]["schemas"]

    def test_answers_fit_the_document(self, servers: Servers) -> None:
        """A success and a problem, held against the schemas."""
        found = document(servers, "order")
        placed = servers.order.post("/orders", order_of(servers))
        assert mistakes(found, "/orders", "post", "application/json", placed) == []
        refused = servers.order.post("/orders", order_of(servers, quantity=1_000))
        assert (refused.status, mistakes(found, "/orders", "post", "application/problem+json", refused)) == (409, [])
        listed = servers.order.get("/orders", limit=3)
        assert mistakes(found, "/orders", "get", "application/json", listed) == []

    @each_service
    def test_docs_need_no_other_host(self, service: str, servers: Servers) -> None:
        """Each asset of the page comes from the service itself; the page names no URL of anybody else."""
        server = servers.of(service)
        page = server.get("/docs").body.decode()
        assets = Assets()
        assets.feed(page)
        assert {Path(path).suffix for path in assets.paths} == {".png", ".css", ".js"}
        assert [path for path in assets.paths if server.get(path).status != 200] == []
        assert all(len(server.get(path).body) > 500 for path in assets.paths)
        assert re.findall(r"(?:https?:)?//\w", page) == []
        assert '"/openapi.json"' in page


class Assets(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.paths += [value for name, value in attrs if name in ("src", "href") and value]


def document(servers: Servers, service: str) -> dict[str, Any]:
    found: dict[str, Any] = servers.of(service).get("/openapi.json").json()
    return found


def mistakes(found: dict[str, Any], path: str, method: str, content_type: str, answer: Answer) -> list[str]:
    """Where an answer differs from what the document says about it."""
    assert answer.headers["Content-Type"].startswith(content_type)
    response = found["paths"][path][method]["responses"][str(answer.status)]
    schema = {**response["content"][content_type]["schema"], "components": found["components"]}
    return [error.message for error in OAS31Validator(schema).iter_errors(answer.json())]


class TestLogs:
    def test_every_line_is_one_json_event(self, servers: Servers, services: Services) -> None:
        """With a name, a level, a time and the service; each request has its id, route, status and duration."""
        servers.order.post("/orders", order_of(servers))
        servers.order.get("/orders?limit=bogus")
        for service in services.all:
            events = [json.loads(line) for line in log_of(service.log).splitlines()]
            assert all({"event", "level", "time", "service"} <= event.keys() for event in events)
            requests = [event for event in events if event["event"] == "request"]
            assert requests
            assert all({"request_id", "method", "route", "status", "ms"} <= request.keys() for request in requests)

    def test_request_id_is_found_in_every_service(self, servers: Servers, services: Services) -> None:
        """The caller's id is echoed, and goes with the order to inventory and payment, bound to the order's id."""
        request_id = f"test-{uuid4()}"
        answer = servers.order.post("/orders", order_of(servers), {"X-Request-ID": request_id})
        assert answer.headers["X-Request-ID"] == request_id
        for service in services.all:
            events = [event for event in events_of(service) if event.get("request_id") == request_id]
            assert {event["order_id"] for event in events} == {answer.json()["order_id"]}, service.name

    def test_request_without_an_id_gets_one(self, servers: Servers) -> None:
        """Another one each time, also in place of one that is not fit to be logged."""
        ids = [
            servers.order.call("GET", "/orders?limit=1", headers=headers).headers["X-Request-ID"]
            for headers in ({}, {}, {"X-Request-ID": "a b"}, {"X-Request-ID": "x" * 65}, {"X-Request-ID": "é"})
        ]
        assert len(set(ids)) == 5
        assert all(re.fullmatch(r"[0-9a-f-]{36}", each) for each in ids)

    def test_probes_are_not_logged(self, servers: Servers, services: Services) -> None:
        """They come every few seconds."""
        for path in ("/livez", "/readyz", "/metrics"):
            servers.payment.get(path)
        assert not {event.get("route") for event in events_of(services.payment)} & {"/livez", "/readyz", "/metrics"}

    def test_no_secret_is_logged(self, services: Services, database_server: DatabaseServer) -> None:
        """Neither passwords nor database URLs, whatever has happened in this session so far."""
        for service in services.all:
            log = log_of(service.log)
            assert [name for name, password in database_server.passwords.items() if password in log] == []
            assert "mysql://" not in log


def events_of(service: ServiceProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_of(service.log).splitlines()]


class TestShutdown:
    def test_sigterm_fails_readyz_first_and_lets_requests_finish(
        self, servers: Servers, start_service: StartService
    ) -> None:
        """While /readyz says 503 other requests are still answered; the slow one gets its 201; the exit code is 0."""
        process = start_service("order", ORDER_DRAIN_DELAY_S="1")
        server = Server(process.url)
        order = order_of(servers, payment_method="tok_slow")
        with ThreadPoolExecutor(1) as pool:
            placing = pool.submit(server.post, "/orders", order)
            wait_until(lambda: bool(server.get("/orders", user_id=order["user_id"]).json()["items"]))
            process.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.get("/readyz").status == 503)
            assert "shutting down" in server.get("/readyz").json()["detail"]
            assert server.get("/orders", user_id=order["user_id"]).status == 200
            assert server.get("/livez").status == 200
            assert (placing.result().status, placing.result().json()["status"]) == (201, "completed")
        assert process.wait_for_end() == 0
        assert [event["event"] for event in events_of(process) if "route" not in event][-2:] == ["draining", "stopped"]

    @each_service
    def test_who_has_connected_may_still_send_his_request(self, service: str, start_service: StartService) -> None:
        """The port is closed already when the request comes, for in a crowd a client may have to wait for its turn."""
        process = start_service(service)
        address = urlsplit(process.url)
        with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
            process.process.send_signal(signal.SIGTERM)
            wait_until(lambda: log_of(process.log).count("draining") == 1)
            time.sleep(0.5)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address.hostname, address.port), timeout=5)
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: shop\r\n\r\n")
            head = connection.recv(65_536).decode().split("\r\n")
        assert (head[0], "Connection: close" in head) == ("HTTP/1.1 200 OK", True)
        assert process.wait_for_end() == 0

    def test_who_only_connects_does_not_hold_up_the_end(self, start_service: StartService) -> None:
        """He has two seconds to send something."""
        process = start_service("inventory")
        address = urlsplit(process.url)
        with socket.create_connection((address.hostname, address.port), timeout=5):
            process.process.send_signal(signal.SIGTERM)
            assert process.wait_for_end() == 0

    def test_order_whose_caller_gave_up_is_finished_before_the_end(
        self, servers: Servers, start_service: StartService
    ) -> None:
        """A caller that was answered 202 because it took too long does not keep its order from being driven on."""
        process = start_service("order", ORDER_CHECKOUT_TIMEOUT_S="0.2")
        answer = Server(process.url).post("/orders", order_of(servers, payment_method="tok_slow"))
        # 504 if even accepting it took too long; it goes on all the same.
        assert answer.status in (202, 504)
        order_id = answer.json()["order_id"]
        assert process.stop() == 0
        assert servers.order.get(f"/orders/{order_id}").json()["status"] == "completed"

    @each_service
    def test_sigint_is_as_good_as_sigterm(self, service: str, start_service: StartService) -> None:
        """Ctrl-C ends a service that runs alone just as well."""
        process = start_service(service)
        process.process.send_signal(signal.SIGINT)
        assert process.wait_for_end() == 0


DATABASE = "mysql://someone:TopSecret@127.0.0.1/some_db"


class TestSettings:
    @each_service
    def test_missing_database_is_named(self, service: str) -> None:
        """The one setting without a default."""
        assert complaint_of(service, {}) == f"{service.upper()}_DATABASE_URL: is not set"

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("DATABASE_URL", "nonsense"),
            ("DATABASE_URL", "postgres://someone:TopSecret@127.0.0.1/some_db"),
            ("DATABASE_URL", "mysql://someone:TopSecret@127.0.0.1"),
            ("DATABASE_URL", "mysql://someone:Top/Secret@127.0.0.1/some_db"),
            ("DATABASE_URL", DATABASE + "?bogus=1"),
            ("PORT", "x"),
            ("PORT", "65536"),
            ("LOG_LEVEL", "LOUD"),
            ("POOL_SIZE_MAX", "0"),
            ("POOL_WAIT_S", "nan"),
            ("DRAIN_TIMEOUT_S", "-1"),
            ("TRANSACTION_TIMEOUT_S", "inf"),
            ("INVENTORY_URL", "127.0.0.1:8082"),
            ("PAYMENT_URL", "http://:8083"),
            ("CALL_TIMEOUT_S", "0"),
            ("CHECKOUT_TIMEOUT_S", "soon"),
        ],
    )
    def test_wrong_value_is_named_and_not_shown(
        self, variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One line that begins with the variable, exit code 2, and no value: it may be a secret."""
        monkeypatch.setenv("ORDER_DATABASE_URL", DATABASE)
        monkeypatch.setenv(f"ORDER_{variable}", value)
        with pytest.raises(SystemExit) as ended:
            read_settings(order_service.settings.Settings)
        [line] = capsys.readouterr().err.splitlines()
        assert (ended.value.code, line.split(": ")[0]) == (2, f"ORDER_{variable}")
        assert "Top" not in line
        assert "Secret" not in line

    @each_service
    def test_port_in_use_is_named(self, service: str, servers: Servers) -> None:
        """A port that somebody else listens on is a wrong setting, too."""
        port = servers.of(service).url.rsplit(":", 1)[1]
        prefix = service.upper()
        complaint = complaint_of(service, {f"{prefix}_DATABASE_URL": DATABASE, f"{prefix}_PORT": port})
        assert complaint.startswith(f"{prefix}_PORT: 127.0.0.1:{port} cannot be used")


def complaint_of(service: str, settings: dict[str, str]) -> str:
    """The one line that a service says before it exits with 2."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("ORDER_", "INV", "PAYMENT_"))}
    ended = subprocess.run(
        [sys.executable, "-m", f"{service}_service"],
        env={**usual, f"{service.upper()}_PORT": str(free_port()), **settings},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 2, ended
    [line] = ended.stderr.splitlines()
    return line
