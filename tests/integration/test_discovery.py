"""Clients that find their service by SRV records: a real DNS server, real sockets, instances that come and go."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web

from common import context
from common.certificates import Certificates
from common.clients import AsyncInventoryClient, CircuitBreaker, DeadlineExceeded, InventoryClient, ServiceUnavailable
from common.clients.resolver import DnsResolver, LookupFailed
from payment_service.gateway_http import HttpGateway
from tests.dns_server import TTL_S, DnsServer, Srv, dns_server
from tests.processes import certificate_of
from tests.wire import hang_up
from vv import certs
from vv.authority import SERVER, Authority, Pair

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# After this long every client has heard of a change: what it knew was good for a second, or else it has asked again.
HEARD_S = TTL_S + 0.3


@pytest.fixture(scope="module")
def server() -> Iterator[DnsServer]:
    with dns_server() as server:
        yield server


class Instance:
    """Something like an inventory service, which counts its calls."""

    def __init__(self, handler: Handler | None = None, tls: Certificates | None = None) -> None:
        self.name = f"inventory-{uuid4().hex[:8]}"
        self.port = 0
        self.calls = 0
        self.hosts: set[str] = set()
        self._handler = handler
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        self._tls = tls

    async def start(self) -> None:
        await self._runner.setup()
        tls = None if self._tls is None else self._tls.server
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=tls).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    def record(self, **fields: Any) -> Srv:
        return Srv("inventory", self.name, self.port, **fields)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        self.hosts.add(request.headers["Host"])
        if self._handler is not None:
            return await self._handler(request)
        return web.json_response({"product_id": "p", "sku": request.query.get("sku", "S"), "quantity": 1})


@asynccontextmanager
async def instances(
    count: int, handler: Handler | None = None, tls: Certificates | None = None
) -> AsyncIterator[list[Instance]]:
    made = [Instance(handler, tls) for _ in range(count)]
    try:
        for instance in made:
            await instance.start()
        yield made
    finally:
        for instance in made:
            await instance.stop()


def client(
    server: DnsServer, url: str = "srv+http://_inventory._tcp.shop.test", **options: Any
) -> AsyncInventoryClient:
    return AsyncInventoryClient(url, nameserver=server.address, **options)


async def call(inventory: AsyncInventoryClient, count: int) -> None:
    for _ in range(count):
        await inventory.get("S")


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port that lets nobody in and sends nobody away, as a machine that is gone: its queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            connection = waiting.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_instances_come_and_go(server: DnsServer) -> None:
    """All get their share; one that DNS names no more gets nothing after a second, and a new one its share."""
    async with instances(3) as (first, second, third), client(server) as inventory:
        server.serve([first.record(), second.record()])
        await call(inventory, 200)
        assert 50 < first.calls < 150
        assert first.calls + second.calls == 200
        assert first.hosts == {f"{first.name}.shop.test:{first.port}"}

        server.serve([second.record(), third.record()])
        deadline = time.monotonic() + HEARD_S
        while time.monotonic() < deadline:
            await call(inventory, 1)
            await asyncio.sleep(0.01)
        first.calls = second.calls = third.calls = 0
        await call(inventory, 200)
        assert first.calls == 0
        assert 50 < third.calls < 150


async def test_weights_and_priorities(server: DnsServer) -> None:
    """They are those of the records."""
    async with instances(3) as (first, second, third), client(server) as inventory:
        server.serve([first.record(weight=10), second.record(weight=90), third.record(priority=1, weight=100)])
        await call(inventory, 300)
        assert 10 < first.calls < 60
        assert third.calls == 0


@pytest.mark.alone
async def test_an_instance_that_dies_costs_no_call(server: DnsServer) -> None:
    """Though DNS still names it: who finds no connection goes elsewhere at once, and nobody else tries it for a while;
    when it is back it is used again."""
    async with instances(2) as (first, second), client(server) as inventory:
        server.serve([first.record(), second.record()])
        await call(inventory, 20)
        await first.stop()
        started = time.monotonic()
        await asyncio.gather(*(call(inventory, 20) for _ in range(10)))
        assert time.monotonic() - started < 1

        returned = Instance()
        returned.port = first.port
        await returned.start()
        try:
            deadline = time.monotonic() + 5
            while returned.calls < 10:
                assert time.monotonic() < deadline
                await call(inventory, 1)
                await asyncio.sleep(0.005)
        finally:
            await returned.stop()


@pytest.mark.alone
async def test_a_machine_that_is_gone_is_dropped_within_a_second(server: DnsServer) -> None:
    """Its connections are neither made nor refused: the first calls go elsewhere after 0.8 s, later ones at once, but
    for the one that tries it again."""
    async with instances(1) as (alive,), client(server, timeout_s=5) as inventory:
        with black_hole() as port:
            server.serve([alive.record(), Srv("inventory", "gone", port)])
            started = time.monotonic()
            await asyncio.gather(*(call(inventory, 1) for _ in range(20)))
            assert 0.8 <= time.monotonic() - started < 1.6
            durations = []
            for _ in range(50):
                started = time.monotonic()
                await call(inventory, 1)
                durations.append(time.monotonic() - started)
            assert sum(duration > 0.5 for duration in durations) <= 1
            assert alive.calls == 70


async def test_what_may_have_been_sent_is_repeated_only_if_it_bears_that(server: DnsServer) -> None:
    """A connection that breaks leaves the outcome unknown. A call that is idempotent is repeated, at another instance;
    one that is not is not."""
    async with instances(1) as (good,), instances(1, hang_up) as (bad,), client(server) as inventory:
        server.serve([good.record(priority=1), bad.record()])
        await inventory.get("S")
        assert (bad.calls, good.calls) == (1, 1)

        await asyncio.sleep(0.15)
        with pytest.raises(ServiceUnavailable, match=f"{bad.name}.shop.test"):
            await inventory.create(product_id="p", sku="S", quantity=1)
        assert (bad.calls, good.calls) == (2, 1)


async def test_one_bad_instance_does_not_open_the_breaker(server: DnsServer) -> None:
    """It is one for the service as a whole. That all calls to one instance fail at the same moment, as when it is
    killed, keeps nobody away from the others; that all instances fail does."""
    killed = asyncio.Event()

    async def die(request: web.Request) -> web.Response:
        await killed.wait()
        return await hang_up(request)

    breaker = CircuitBreaker(failures_max=5)
    async with instances(1) as (good,), instances(1, die) as (bad,), client(server, breaker=breaker) as inventory:
        server.serve([good.record(), bad.record()])
        calls = [asyncio.create_task(inventory.get("S")) for _ in range(30)]
        while len(calls) > good.calls + bad.calls:
            await asyncio.sleep(0.01)
        killed.set()
        await asyncio.gather(*calls)
        assert bad.calls > 5
        assert not breaker.is_open

        await good.stop()
        while not breaker.is_open:
            with pytest.raises(ServiceUnavailable):
                await inventory.get("S")


async def test_a_caller_in_a_hurry_says_nothing_about_an_instance(server: DnsServer) -> None:
    """That it did not answer within a tenth of a second does not keep others away from it."""

    async def think(request: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.json_response({"product_id": "p", "sku": "S", "quantity": 1})

    async with instances(1) as (spare,), instances(1, think) as (slow,):
        server.serve([spare.record(priority=1), slow.record()])
        async with client(server) as inventory:
            await inventory.get("S")
            context.set_deadline(0.1)
            with pytest.raises(DeadlineExceeded):
                await inventory.get("S")
            context.set_deadline(None)
            await inventory.get("S")
        assert spare.calls == 0


async def test_what_could_not_be_sent_goes_elsewhere_whatever_it_is(server: DnsServer, unused_tcp_port: int) -> None:
    """Also a call that must not be repeated."""
    async with instances(1) as (good,), client(server) as inventory:
        server.serve([good.record(priority=1), Srv("inventory", "nobody", unused_tcp_port)])
        await inventory.create(product_id="p", sku="S", quantity=1)
        assert good.calls == 1


@pytest.mark.alone
async def test_while_dns_is_down_its_last_answer_counts(server: DnsServer) -> None:
    """Calls go on, without waiting."""
    async with instances(1) as (only,), client(server) as inventory:
        server.serve([only.record()])
        await call(inventory, 1)
        server.stop()
        await asyncio.sleep(TTL_S + 0.1)
        started = time.monotonic()
        await call(inventory, 50)
        assert time.monotonic() - started < 0.9
        assert only.calls == 51


async def test_a_service_that_dns_does_not_know(server: DnsServer) -> None:
    """The error names it; nothing was sent, and the circuit breaker counts it."""
    server.serve([])
    breaker = CircuitBreaker(failures_max=1)
    async with client(server, breaker=breaker) as inventory:
        with pytest.raises(ServiceUnavailable, match=r"_inventory\._tcp\.shop\.test .*DNS names no instance"):
            await inventory.create(product_id="p", sku="S", quantity=1)
        assert breaker.is_open


async def test_nobody_is_there(server: DnsServer, unused_tcp_port: int) -> None:
    """When no instance lets anybody in, calls fail fast; the breaker is that of the service as a whole."""
    server.serve([Srv("inventory", "nobody", unused_tcp_port)])
    async with client(server, timeout_s=1) as inventory:
        with pytest.raises(ServiceUnavailable, match="connection failed"):
            await inventory.get("S")
        assert not await inventory.ready()


@pytest.mark.parametrize("prefix", ["", "/shop/v1/"])
async def test_paths_and_queries_arrive_as_they_are(server: DnsServer, prefix: str) -> None:
    """The base URL may have a path, and a SKU every printable character."""
    sku = "a&b=c #1%20+?/;"
    async with instances(1) as (only,):
        server.serve([only.record()])
        async with client(server, f"srv+http://_inventory._tcp.shop.test{prefix}") as inventory:
            assert (await inventory.get(sku)).sku == sku


async def test_a_blocking_client_finds_its_service(server: DnsServer) -> None:
    """In the thread that it has for itself."""
    async with instances(1) as (only,):
        server.serve([only.record()])

        def get() -> str:
            with InventoryClient("srv+http://_inventory._tcp.shop.test", nameserver=server.address) as inventory:
                return inventory.get("S").sku

        assert await asyncio.to_thread(get) == "S"


async def test_a_session_of_the_callers_own_finds_hosts_itself(server: DnsServer) -> None:
    """The instances are those of the records; their addresses are whatever the session makes of the hosts."""

    class Here(aiohttp.ThreadedResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
            assert host.endswith(".shop.test")
            return await super().resolve("127.0.0.1", port, family)

    async with instances(1) as (only,):
        server.serve([only.record(address="127.9.9.9")])
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Here())) as session,
            client(server, session=session) as inventory,
        ):
            await inventory.get("S")
        assert only.calls == 1


async def test_the_payment_gateway_is_found_the_same_way(server: DnsServer, unused_tcp_port: int) -> None:
    """Its client has no retries, but a charge that could not be sent goes to another instance, too."""

    async def charge(request: web.Request) -> web.Response:
        assert request.headers["Idempotency-Key"] == "o:charge"
        return web.json_response({"id": "1", "status": "approved"}, status=201)

    async with instances(1, charge) as (only,):
        server.serve([only.record(priority=1), Srv("inventory", "nobody", unused_tcp_port)])
        gateway = HttpGateway(
            "srv+http://_inventory._tcp.shop.test", timeout_s=5, connections_max=4, nameserver=server.address
        )
        try:
            await gateway.charge("o:charge", amount=700, currency="USD", payment_method="tok_ok", reference="o")
        finally:
            await gateway.aclose()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates that ``vv certs`` makes, and those of ``host``, whose only name is that of its machine."""
    folder = tmp_path_factory.mktemp("certs")
    certs.ensure(folder)
    pair = Pair.read(folder, "ca")
    assert pair is not None
    host = Authority(pair).issue("host", ["host.shop.test"], valid=timedelta(days=1), usages=[SERVER])
    host.write(folder, "host")
    return folder


@pytest.mark.parametrize(("name", "is_believed"), [("inventory", True), ("payment", False), ("host", False)])
async def test_a_certificate_is_for_the_service(server: DnsServer, folder: Path, name: str, is_believed: bool) -> None:
    """It must bear the service's name, which the URL has. That of another service, or of the host that DNS names,
    counts for nothing, however valid it is: who forges DNS can send us to any host."""
    async with instances(1, tls=certificate_of(name, folder)) as (only,):
        only.name = "host"
        server.serve([only.record()])
        tls = certificate_of("order", folder).client
        async with client(server, "srv+https://_inventory._tcp.shop.test", tls=tls, timeout_s=1) as inventory:
            if is_believed:
                await inventory.get("S")
            else:
                with pytest.raises(ServiceUnavailable, match="certificate is not valid"):
                    await inventory.get("S")
        assert only.calls == is_believed


@pytest.mark.parametrize("are_told_along", [True, False])
async def test_what_dns_says(server: DnsServer, are_told_along: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts, ports, priorities, weights, and how long that is good for; and addresses, be they sent along or asked for.
    A service without any is no error."""
    if not are_told_along:
        monkeypatch.setattr("common.clients.resolver._told_along", lambda _: {})
    server.serve([Srv("inventory", "one", 81, 1, 2), Srv("inventory", "two", 82, 3, 4, "127.0.0.2,::1")])
    resolver = DnsResolver(server.address)
    records, ttl_s = await resolver.look_up("_inventory._tcp.shop.test")
    assert sorted(records) == [
        (("one.shop.test", 81, ("127.0.0.1",)), 1, 2),
        (("two.shop.test", 82, ("127.0.0.2", "::1")), 3, 4),
    ]
    assert ttl_s == TTL_S
    assert (await resolver.look_up("_payment._tcp.shop.test")).records == ()
    assert (await resolver.look_up("one.shop.test")).records == ()


async def test_hosts_that_are_none_are_left_out(server: DnsServer) -> None:
    """A name in DNS may have any bytes; what could not stand in a URL or a header is none."""
    server.serve([Srv("inventory", "good", 81), Srv("inventory", "e/v?i l", 82)])
    records, _ = await DnsResolver(server.address).look_up("_inventory._tcp.shop.test")
    assert [record.endpoint.host for record in records] == ["good.shop.test"]


async def test_many_instances_do_not_fit_into_a_packet(server: DnsServer) -> None:
    """The whole list comes all the same, over TCP."""
    server.serve([Srv("inventory", f"instance-number-{number}", 8000 + number) for number in range(100)])
    records, _ = await DnsResolver(server.address).look_up("_inventory._tcp.shop.test")
    assert len({record.endpoint.port for record in records}) == 100
    assert all(record.endpoint.addresses == ("127.0.0.1",) for record in records)


async def test_a_server_that_knows_nothing_is_as_good_as_down(server: DnsServer) -> None:
    """That it refuses to answer for a domain does not say that nobody is there."""
    server.serve([])
    with pytest.raises(LookupFailed):
        await DnsResolver(server.address).look_up("_inventory._tcp.elsewhere.test")
