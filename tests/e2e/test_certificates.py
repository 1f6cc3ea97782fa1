"""TLS between the services: who gets a connection, what his certificate lets him do, and how certificates change."""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from common.certificates import Certificates
from common.clients import AsyncOrderClient, OrderStatus
from tests.conftest import log_of
from tests.e2e.conftest import wait_until
from tests.processes import ServiceProcess, Services, certificate_of
from vv import certs
from vv.authority import SERVER, Authority, Pair
from vv.databases import Databases

LOCAL = ("localhost",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates that ``vv certs`` makes."""
    made = tmp_path_factory.mktemp("certs")
    certs.ensure(made)
    return made


@pytest.fixture(scope="module")
def secured(
    reached_by_socket: None, migrated: Databases, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """The three services with a certificate each."""
    running = Services(migrated.service_urls, tmp_path_factory.mktemp("logs"), folder)
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="module", autouse=True)
def silent(secured: Services, folder: Path) -> Iterator[list[socket.socket]]:
    """Those who connect and do not go on with TLS, or begin to; the last test here sees what becomes of them."""
    with contextlib.ExitStack() as opened:
        address = ("127.0.0.1", secured.inventory.port)
        connections = [opened.enter_context(socket.create_connection(address)) for _ in range(30)]
        connections[0].sendall(b"\x16\x03\x01\x02\x00\x01")
        operator = certificate_of("operator", folder).client
        # These get as far as the beginning of a request, and stop.
        for _ in range(2):
            plain = opened.enter_context(socket.create_connection(address))
            begun = opened.enter_context(operator.wrap_socket(plain, server_hostname="127.0.0.1"))
            begun.sendall(b"GET /inventory/sku?sku=x HTTP/1.1\r\nHost")
            connections.append(begun)
        yield connections


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    found = Pair.read(folder, "ca")
    assert found is not None
    return Authority(found)


def client_of(pair: Pair, folder: Path, tmp_path: Path) -> ssl.SSLContext:
    """Who shows ``pair`` and believes the CA in ``folder``."""
    pair.write(tmp_path, "client")
    return Certificates(tmp_path / "client.crt", tmp_path / "client.key", folder / "ca.crt").client


def call(service: ServiceProcess, tls: ssl.SSLContext, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPSConnection("127.0.0.1", service.port, context=tls, timeout=10)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


async def test_checkout_works_over_tls(secured: Services, folder: Path) -> None:
    """Stock, money and the way back, each hop with a certificate at both ends."""
    operator = certificate_of("operator", folder).client
    sku = new_sku(secured, operator)
    async with AsyncOrderClient(secured.order.url, tls=operator) as orders:
        order = await orders.create(user_id="ada", sku=sku, total_amount=5)
        assert order.status is OrderStatus.COMPLETED
        assert (await orders.cancel(order.order_id)).status is OrderStatus.CANCELLED


Request = tuple[str, str, str, Any]
DECREASE: Request = ("inventory", "POST", "/inventory/decrease", {"sku": "none", "quantity": 1})
ROLLBACK: Request = ("inventory", "POST", "/inventory/rollback/batch", {"items": [{"request_id": "none"}]})
CHARGE_NOTHING: Request = ("payment", "POST", "/payments/batch", {"items": []})
CANCEL: Request = ("payment", "POST", "/payments/cancel", {"order_id": "not-an-id"})
READ_STOCK: Request = ("inventory", "GET", "/inventory/sku?sku=none", None)
READ_ORDER: Request = ("order", "GET", f"/orders/{UUID(int=0)}", None)
ORDER: Request = ("order", "POST", "/orders", {"total_amount": 1})


@pytest.mark.parametrize(
    ("name", "asked", "status"),
    [
        ("order", DECREASE, 404),
        ("order", ROLLBACK, 200),
        ("order", CHARGE_NOTHING, 400),
        ("order", CANCEL, 400),
        ("order", READ_STOCK, 403),
        ("order", READ_ORDER, 403),
        ("inventory", DECREASE, 403),
        ("inventory", CHARGE_NOTHING, 403),
        ("inventory", ORDER, 403),
        ("payment", DECREASE, 403),
        ("payment", ROLLBACK, 403),
        ("payment", CANCEL, 403),
        ("gateway", DECREASE, 401),
        ("gateway", CHARGE_NOTHING, 401),
        ("gateway", READ_ORDER, 401),
        ("database", DECREASE, 401),
        ("operator", DECREASE, 404),
        ("operator", ROLLBACK, 200),
        ("operator", READ_STOCK, 404),
        ("operator", READ_ORDER, 404),
        ("operator", ORDER, 400),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[1:3]) if isinstance(value, tuple) else None,
)
def test_the_name_in_the_certificate_decides(
    name: str, asked: Request, status: int, secured: Services, folder: Path
) -> None:
    """A service calls what it needs and nothing else; the front door and the database are nobody; a person may all."""
    service, *request = asked
    tls = certificate_of(name, folder).client
    assert call(getattr(secured, service), tls, *request)[0] == status


@pytest.mark.parametrize("names", [["shop-web"], ["order.evil.example"], ["xorder"], ["*"], ["ORDER"], LOCAL])
def test_an_unknown_name_is_nobody(
    names: list[str], secured: Services, folder: Path, authority: Authority, tmp_path: Path
) -> None:
    """A certificate of our CA that names none of the services opens the connection and nothing else."""
    tls = client_of(authority.issue("order", names, valid=timedelta(hours=1)), folder, tmp_path)
    assert call(secured.inventory, tls, *DECREASE[1:])[0] == 401
    assert call(secured.inventory, tls, "GET", "/livez")[0] == 200


def is_let_in(service: ServiceProcess, tls: ssl.SSLContext) -> bool:
    """With TLS 1.3 the server's refusal comes after the client's side of the handshake: only an answer counts."""
    try:
        return call(service, tls, "GET", "/livez")[0] == 200
    except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
        return False


def test_without_a_certificate_there_is_no_connection(secured: Services, folder: Path) -> None:
    """Also health checks need one."""
    tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    assert not is_let_in(secured.order, tls)


def test_a_certificate_of_somebody_else_opens_nothing(secured: Services, folder: Path, tmp_path: Path) -> None:
    """Another CA may write into its certificates what it likes."""
    forged = Authority.make(timedelta(days=1)).issue("order", ["order"], valid=timedelta(hours=1))
    assert not is_let_in(secured.inventory, client_of(forged, folder, tmp_path))


@pytest.mark.parametrize("start", [timedelta(hours=-2), timedelta(hours=1)], ids=["expired", "not valid yet"])
def test_a_certificate_opens_nothing_beyond_its_time(
    start: timedelta, secured: Services, folder: Path, authority: Authority, tmp_path: Path
) -> None:
    """Neither after it nor before it."""
    pair = authority.issue("order", ["order"], start=datetime.now(UTC) + start, valid=timedelta(hours=1))
    assert not is_let_in(secured.inventory, client_of(pair, folder, tmp_path))


def test_a_session_does_not_outlive_its_certificate(secured: Services, folder: Path) -> None:
    """No tickets: with one, a certificate would not be looked at again, also when it has expired by then."""
    tls = certificate_of("operator", folder).client
    with (
        socket.create_connection(("127.0.0.1", secured.order.port), timeout=10) as plain,
        tls.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n")
        assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
        assert connection.session is None or not connection.session.has_ticket


def test_a_certificate_for_servers_opens_nothing(
    secured: Services, folder: Path, authority: Authority, tmp_path: Path
) -> None:
    """What a web server has got of our CA is not for calling services with."""
    pair = authority.issue("order", ["order"], valid=timedelta(hours=1), usages=[SERVER])
    assert not is_let_in(secured.inventory, client_of(pair, folder, tmp_path))


def test_older_tls_is_refused(secured: Services, folder: Path) -> None:
    """Nothing below TLS 1.3."""
    tls = certificate_of("operator", folder).client
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    assert not is_let_in(secured.order, tls)


def test_plain_http_is_refused(secured: Services) -> None:
    """Where TLS is configured, nothing is answered in plain text."""
    with socket.create_connection(("127.0.0.1", secured.order.port), timeout=15) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n")
        assert b"HTTP/1.1" not in connection.recv(1_000)


async def test_a_service_that_is_somebody_else_is_not_believed(secured: Services, folder: Path, tmp_path: Path) -> None:
    """Whoever answers in place of the payment service with a certificate of another CA gets no charges: the order
    waits, and is completed once the right one is back."""
    operator = certificate_of("operator", folder).client
    certs.ensure(tmp_path / "foreign")
    impostor = ServiceProcess("payment", secured.payment.environment, tmp_path / "impostor.log", tmp_path / "foreign")
    sku = new_sku(secured, operator)
    secured.order.stop()
    try:
        secured.order.start(ORDER_PAYMENT_URL=impostor.start().url)
        async with AsyncOrderClient(secured.order.url, tls=operator) as orders:
            order = await orders.create(user_id="ada", sku=sku, total_amount=5)
        assert order.status is OrderStatus.INVENTORY_RESERVED
        assert '"route": "/payments' not in log_of(impostor.log)
    finally:
        secured.order.stop()
        secured.order.start()
        impostor.stop()
    async with AsyncOrderClient(secured.order.url, tls=operator) as orders:
        assert (await orders.wait(order.order_id, timeout_s=20)).status is OrderStatus.COMPLETED


async def test_certificates_are_renewed_under_load(secured: Services, folder: Path) -> None:
    """New certificates, first half-written ones, then good ones: connections that are opened afterwards have them, no
    service is started again, and no order fails."""
    operator = certificate_of("operator", folder).client
    sku = new_sku(secured, operator, quantity=100_000)
    before = {service.name: serial_of(service, operator) for service in secured.all}
    expiries = {service.name: expiry_of(service, folder) for service in secured.all}
    stopped = asyncio.Event()

    async def buy() -> int:
        bought = 0
        while not stopped.is_set():
            # A client of its own each time: each opens a connection.
            async with AsyncOrderClient(secured.order.url, tls=operator) as orders:
                order = await orders.create(user_id="ada", sku=sku, total_amount=5)
                assert order.status is OrderStatus.COMPLETED
                bought += 1
        return bought

    buyers = [asyncio.create_task(buy()) for _ in range(4)]
    for name in ("order", "inventory", "payment"):
        (folder / f"{name}.key").write_text("-----BEGIN PRIVATE KEY-----\n")  # pragma: allowlist secret
    await wait_for_line(secured, "certificates_not_usable")
    await asyncio.to_thread(certs.ensure, folder, renew=True)
    await wait_for_line(secured, "certificates_taken_over")
    await asyncio.sleep(1)
    stopped.set()
    assert sum(await asyncio.gather(*buyers)) > 4
    after = {service.name: serial_of(service, operator) for service in secured.all}
    assert {name for name in before if before[name] == after[name]} == set()
    # A year from now, a while later than before.
    assert all(expiry_of(service, folder) > expiries[service.name] > time.time() for service in secured.all)
    assert all(service.process.poll() is None for service in secured.all)


def test_the_certificate_of_prometheus_opens_its_metrics_and_nothing_else(secured: Services, folder: Path) -> None:
    """Which say when the certificate of the service expires, to the second."""
    prometheus = certificate_of("prometheus", folder).client
    for service in secured.all:
        pair = Pair.read(folder, service.name)
        assert pair is not None
        assert expiry_of(service, folder) == pair.certificate.not_valid_after_utc.timestamp()
    status, _ = call(secured.inventory, prometheus, "GET", "/inventory/sku?sku=x")
    assert status == 401


def expiry_of(service: ServiceProcess, folder: Path) -> float:
    """What the service says to Prometheus of its certificate."""
    tls = certificate_of("prometheus", folder).client
    with urllib.request.urlopen(f"{service.url}/metrics", timeout=10, context=tls) as reply:
        text = reply.read().decode()
    return float(re.search(r"^vv_tls_certificate_expiry_timestamp_seconds (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]


def test_handshakes_and_heads_that_never_end_are_cut(silent: list[socket.socket]) -> None:
    """Ten seconds after they connected, and the time to close; by now they may be gone already."""
    deadline = time.monotonic() + 14
    for connection in silent:
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def new_sku(secured: Services, tls: ssl.SSLContext, quantity: int = 10) -> str:
    sku = f"TLS-{uuid4().hex[:12]}"
    body = {"product_id": "p", "sku": sku, "quantity": quantity}
    assert call(secured.inventory, tls, "POST", "/inventory/create", body)[0] == 201
    return sku


def serial_of(service: ServiceProcess, tls: ssl.SSLContext) -> object:
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=10) as plain,
        tls.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return (connection.getpeercert() or {})["serialNumber"]


async def wait_for_line(secured: Services, event: str) -> None:
    """Until each of the services has logged it."""
    await asyncio.to_thread(wait_until, lambda: all(f'"event": "{event}"' in log_of(each.log) for each in secured.all))
