"""Several processes for one service: nothing is oversold, metrics add up, and whatever dies is replaced or gone."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from common.clients import AsyncInventoryClient, OrderStatus
from tests.conftest import Audit, MakeSku
from tests.e2e.conftest import Books, wait_until
from tests.e2e.raw import Server
from tests.e2e.scraped import metric, samples
from tests.processes import FAST_RECOVERY, ServiceProcess, Services, free_port, is_alive
from vv.databases import Databases

WORKERS = 3
SLOW_GATEWAY_S = 0.5


@pytest.fixture(scope="module")
def crowd(migrated: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The three services with three workers each, and a payment gateway that takes its time."""
    settings = {f"{name}_WORKERS": str(WORKERS) for name in ("ORDER", "INVENTORY", "PAYMENT")}
    folder = tmp_path_factory.mktemp("crowd")
    crowd = Services(migrated.service_urls, folder, **settings, PAYMENT_SANDBOX_LATENCY_S=str(SLOW_GATEWAY_S))
    try:
        crowd.start()
        for service in crowd.all:
            wait_for_workers(service, WORKERS)
        yield crowd
    finally:
        crowd.stop()


@pytest.fixture
def inventory_of_two(migrated: Databases, tmp_path: Path) -> Iterator[ServiceProcess]:
    """An inventory service with two workers, for a test that ends it."""
    environment = {"INVENTORY_DATABASE_URL": migrated.service_urls["inventory"], **FAST_RECOVERY}
    service = ServiceProcess("inventory", environment, tmp_path / "inventory.log")
    service.start(INVENTORY_WORKERS="2")
    wait_for_workers(service, 2)
    yield service
    if service.process.poll() is None:
        service.stop()


def wait_for_workers(service: ServiceProcess, count: int) -> None:
    """A service is ready when the first of its workers is; wait for the others."""
    wait_until(lambda: len({event["worker"] for event in events_of(service) if event["event"] == "started"}) == count)


def pids_of(service: ServiceProcess) -> dict[str, int]:
    """The process ids of the workers by their numbers."""
    return {sample["worker"]: int(sample["value"]) for sample in samples(Server(service.url), "vv_worker_pid")}


def events_of(service: ServiceProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.log.read_text(encoding="utf-8").splitlines()]


async def post_at_once(url: str, bodies: list[dict[str, object]]) -> list[tuple[int, dict[str, Any]]]:
    """The status and body that each request is answered with; each has a connection of its own."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def post(body: dict[str, object]) -> tuple[int, dict[str, Any]]:
            async with session.post(url, json=body) as reply:
                return reply.status, await reply.json(content_type=None)

        return await asyncio.gather(*map(post, bodies))


class TestManyProcesses:
    async def test_one_sku_is_never_oversold(
        self, crowd: Services, inventory: AsyncInventoryClient, make_sku: MakeSku, audit_books: Audit
    ) -> None:
        """Three buyers for each unit: exactly the stock is sold, the answers are definite, and each worker helped."""
        sku = await make_sku(80)
        bodies: list[dict[str, object]] = [
            {"user_id": f"{sku}-{n}", "sku": sku, "total_amount": 500} for n in range(240)
        ]

        answers = await post_at_once(f"{crowd.order.url}/orders", bodies)

        assert Counter(status for status, _ in answers) == {201: 80, 409: 160}
        assert (await inventory.get(sku)).quantity == 0
        assert (await audit_books()).violations == []
        requests = [event for event in events_of(crowd.order) if event.get("route") == "/orders"]
        assert {event["worker"] for event in requests} == set(range(WORKERS))

    @pytest.mark.alone
    async def test_a_payment_that_another_worker_drives_is_waited_for(self, crowd: Services, books: Books) -> None:
        """However many ask for the same charge, wherever: all get its outcome, as soon as it is there."""
        order_id = f"{uuid4()}"
        started = time.monotonic()

        answers = await post_at_once(f"{crowd.payment.url}/payments", [{"order_id": order_id, "amount": 700}] * 30)

        assert {(status, body["status"]) for status, body in answers} == {(201, "captured")}
        assert time.monotonic() - started < SLOW_GATEWAY_S + 2
        assert len({body["payment_id"] for _, body in answers}) == 1
        assert books.gateway(order_id) == [("charge", 700)]
        assert metric(Server(crowd.payment.url), "vv_batch_items_sum", batcher="poll") > 0

    @pytest.mark.alone
    @pytest.mark.parametrize("payment_method", ["tok_timeout", "tok_error"])
    async def test_a_payment_that_nobody_drives_is_not_waited_for(self, payment_method: str, crowd: Services) -> None:
        """When its driver has given it to recovery, everybody else is told at once that nobody knows."""
        body: dict[str, object] = {"order_id": f"{uuid4()}", "amount": 700, "payment_method": payment_method}
        slow = ServiceProcess("payment", {**crowd.payment.environment, "PAYMENT_RETRY_FIRST_S": "5"}, crowd.payment.log)
        slow.start(PAYMENT_RETRY_MOST_S="5")
        try:
            assert Server(slow.url).post("/payments", body).status == 202
            started = time.monotonic()
            answers = await post_at_once(f"{crowd.payment.url}/payments", [body] * 9)
        finally:
            slow.stop()
        assert {(status, found["status"]) for status, found in answers} == {(202, "pending")}
        assert time.monotonic() - started < 2

    async def test_an_order_survives_the_death_of_its_worker(
        self, crowd: Services, services: Services, migrated: Databases, make_sku: MakeSku, tmp_path: Path
    ) -> None:
        """Recovery in another worker, or in its next life, finishes the order; the crash point is not met again."""
        sku = await make_sku(10)
        service = ServiceProcess("order", services.order.environment, tmp_path / "order.log")
        service.start(ORDER_WORKERS="2", ORDER_CRASH_POINT="charged")
        try:
            with pytest.raises(aiohttp.ClientError):
                await post_at_once(f"{service.url}/orders", [{"user_id": sku, "sku": sku, "total_amount": 700}])
            user = f"{service.url}/orders?user_id={sku}"
            async with aiohttp.ClientSession() as session, asyncio.timeout(30):
                while True:
                    try:
                        async with session.get(user) as reply:
                            [order] = (await reply.json())["items"]
                            if order["status"] == OrderStatus.COMPLETED:
                                break
                    except aiohttp.ClientError:
                        pass
                    await asyncio.sleep(0.05)
        finally:
            assert service.stop() == 0
        assert "worker_ended" in {event["event"] for event in events_of(service)}


class TestMetrics:
    async def test_sums_are_the_same_whoever_is_asked(self, crowd: Services, make_sku: MakeSku) -> None:
        """What was sent is what is counted, over all workers and however often it is asked for."""
        sku = await make_sku(1_000)
        labels = {"method": "POST", "route": "/inventory/increase"}
        before = metric(Server(crowd.inventory.url), "vv_http_requests_total", **labels)
        bodies: list[dict[str, object]] = [{"sku": sku, "quantity": 1, "request_id": f"{sku}-{n}"} for n in range(60)]
        await post_at_once(f"{crowd.inventory.url}/inventory/increase", bodies)

        counts = [metric(Server(crowd.inventory.url), "vv_http_requests_total", **labels) for _ in range(20)]
        durations = [
            metric(Server(crowd.inventory.url), "vv_http_request_duration_seconds_count", **labels) for _ in range(20)
        ]

        assert set(counts) == {before + 60}
        assert set(durations) == {before + 60}
        requests = [event for event in events_of(crowd.inventory) if event.get("route") == "/inventory/increase"]
        assert {event["worker"] for event in requests} == set(range(WORKERS))

    def test_what_each_worker_holds_is_summed_and_what_each_reads_is_not(self, crowd: Services) -> None:
        """Nothing is in flight but the question itself; the service is one; each process tells of itself."""
        wait_until(lambda: metric(Server(crowd.order.url), "vv_http_requests_in_flight") == 1)
        assert metric(Server(crowd.order.url), "vv_service_info") == 1
        for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
            found = {sample["worker"]: sample["value"] for sample in samples(Server(crowd.order.url), name)}
            assert found.keys() == {"0", "1", "2"}
            assert min(found.values()) > 0

    async def test_orders_are_not_counted_once_for_each_worker(
        self, services: Services, books: Books, make_sku: MakeSku, tmp_path: Path
    ) -> None:
        """One order that waits for the inventory service is one, though three workers count it."""
        books.settle()
        environment = {**services.order.environment, "ORDER_INVENTORY_URL": f"http://127.0.0.1:{free_port()}"}
        service = ServiceProcess("order", environment, tmp_path / "order.log")
        service.start(ORDER_WORKERS="3", ORDER_RETRY_FIRST_S="60", ORDER_RETRY_MOST_S="60", ORDER_CALL_TIMEOUT_S="0.2")
        sku = await make_sku(1)
        placed = Server(service.url).post("/orders", {"user_id": sku, "sku": sku, "total_amount": 700})
        assert (placed.status, placed.json()["status"]) == (202, "created")
        # Each worker counts every five seconds.
        counts = []
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            counts.append(metric(Server(service.url), "vv_orders_unfinished", status="created"))
            await asyncio.sleep(0.1)
        assert service.stop() == 0
        # Leave nothing behind that the tests after this one would wait for.
        Server(services.order.url).patch("/orders", {"order_id": placed.json()["order_id"], "status": "cancelled"})
        assert (max(counts), counts[-1]) == (1, 1)


class TestDeath:
    async def test_a_killed_worker_is_replaced_and_its_counts_stay(
        self, inventory_of_two: ServiceProcess, make_sku: MakeSku
    ) -> None:
        """The other one serves meanwhile; the new one counts on; and no count ever goes back."""
        sku = await make_sku(1_000)
        bodies: list[dict[str, object]] = [{"sku": sku, "quantity": 1, "request_id": f"{sku}-{n}"} for n in range(40)]
        await post_at_once(f"{inventory_of_two.url}/inventory/increase", bodies)
        before = pids_of(inventory_of_two)
        known = len(events_of(inventory_of_two))
        os.kill(before["0"], signal.SIGKILL)

        counts = []
        while not any(
            event["event"] == "started" and event["worker"] == 0 for event in events_of(inventory_of_two)[known:]
        ):
            # A connection that the dead one had not taken yet is reset.
            with contextlib.suppress(ConnectionError):
                counts.append(
                    metric(Server(inventory_of_two.url), "vv_http_requests_total", route="/inventory/increase")
                )
        again: list[dict[str, object]] = [{**body, "request_id": f"{body['request_id']}-again"} for body in bodies]
        await post_at_once(f"{inventory_of_two.url}/inventory/increase", again)

        assert set(counts) == {40}
        assert metric(Server(inventory_of_two.url), "vv_http_requests_total", route="/inventory/increase") == 80
        after = pids_of(inventory_of_two)
        assert (after.keys(), after["1"]) == (before.keys(), before["1"])
        [ended] = [event for event in events_of(inventory_of_two) if event["event"] == "worker_ended"]
        assert (ended["worker"], ended["exit_code"], ended["level"]) == (0, -9, "warning")

    def test_kill_9_of_the_supervisor_leaves_no_worker(self, inventory_of_two: ServiceProcess) -> None:
        """They notice by themselves, and the port is free again."""
        pids = pids_of(inventory_of_two).values()
        inventory_of_two.kill()
        wait_until(lambda: not any(map(is_alive, pids)), 10)
        inventory_of_two.start()
        assert inventory_of_two.stop() == 0

    def test_the_folder_of_the_metrics_is_removed(self, inventory_of_two: ServiceProcess) -> None:
        """Nothing is left in the temporary folder once the service has ended."""
        maps = Path(f"/proc/{pids_of(inventory_of_two)['0']}/maps").read_text()
        folder = next(Path(line.split()[-1]).parent for line in maps.splitlines() if "/vv-metrics-" in line)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert inventory_of_two.stop() == 0
        assert not folder.exists()


class TestShutdown:
    async def test_sigterm_loses_no_request(
        self, inventory_of_two: ServiceProcess, inventory: AsyncInventoryClient, make_sku: MakeSku
    ) -> None:
        """Clients that go on and on are answered, or find nobody listening; nothing is cut off in between."""
        sku = await make_sku(0)
        inventory_of_two.stop()
        inventory_of_two.start(INVENTORY_WORKERS="2", INVENTORY_DRAIN_DELAY_S="1.5")
        outcomes: Counter[str] = Counter()

        async def increase_until_refused(session: aiohttp.ClientSession) -> None:
            while True:
                body = {"sku": sku, "quantity": 1, "request_id": f"{uuid4()}"}
                try:
                    async with session.post(f"{inventory_of_two.url}/inventory/increase", json=body) as reply:
                        outcomes[f"{reply.status}"] += 1
                except aiohttp.ClientConnectorError:
                    return
                except aiohttp.ClientError as error:
                    outcomes[repr(error)] += 1

        async with aiohttp.ClientSession() as session:
            clients = [asyncio.create_task(increase_until_refused(session)) for _ in range(20)]
            await asyncio.sleep(0.5)
            inventory_of_two.process.send_signal(signal.SIGTERM)
            await asyncio.wait(clients, timeout=30)

        assert await asyncio.to_thread(inventory_of_two.wait_for_end) == 0
        assert outcomes.keys() == {"200"}
        assert (await inventory.get(sku)).quantity == outcomes["200"] > 20

    async def test_sigterm_lets_slow_orders_finish(
        self, crowd: Services, make_sku: MakeSku, tmp_path: Path, audit_books: Audit
    ) -> None:
        """/readyz fails in each worker while orders that wait for the gateway are still driven to their end."""
        sku = await make_sku(50)
        service = ServiceProcess("order", crowd.order.environment, tmp_path / "order.log")
        service.start(ORDER_WORKERS="2", ORDER_DRAIN_DELAY_S="0.4")
        wait_for_workers(service, 2)
        bodies: list[dict[str, object]] = [
            {"user_id": f"{sku}-{n}", "sku": sku, "total_amount": 500} for n in range(50)
        ]
        placing = asyncio.create_task(post_at_once(f"{service.url}/orders", bodies))
        await asyncio.to_thread(wait_until, lambda: metric(Server(service.url), "vv_http_requests_in_flight") > 50)
        service.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        ready = await asyncio.gather(*(asyncio.to_thread(Server(service.url).get, "/readyz") for _ in range(10)))

        assert {answer.status for answer in ready} == {503}
        assert Counter(status for status, _ in await placing) == {201: 50}
        assert await asyncio.to_thread(service.wait_for_end) == 0
        assert (await audit_books()).violations == []

    def test_sigint_is_as_good_as_sigterm(self, inventory_of_two: ServiceProcess) -> None:
        """The supervisor passes it on, and ends with 0."""
        pids = pids_of(inventory_of_two).values()
        inventory_of_two.process.send_signal(signal.SIGINT)
        assert inventory_of_two.wait_for_end() == 0
        assert not any(map(is_alive, pids))

    def test_it_ends_at_once_when_told_while_it_starts(self, inventory_of_two: ServiceProcess) -> None:
        """Workers that do not listen to signals yet are no failure."""
        inventory_of_two.stop()
        process = subprocess.Popen(
            [sys.executable, "-m", "inventory_service", "--workers", "3"],
            env={**os.environ, **inventory_of_two.environment},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        with process:
            assert b"worker_started" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def refusal(service: ServiceProcess, *flags: str, **settings: str) -> str:
    """The one line that another instance of a service says before it ends with 2."""
    ended = subprocess.run(
        [sys.executable, "-m", f"{service.name}_service", *flags],
        env={**os.environ, **service.environment, **settings},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    return line


class TestRefusals:
    @pytest.mark.parametrize("flags", [(), ("--workers", "2")])
    def test_the_port_of_a_service_with_workers_is_taken(self, flags: tuple[str, ...], crowd: Services) -> None:
        """It is shared among the workers, and with nobody else."""
        said = refusal(crowd.order, *flags, ORDER_WORKERS="1")
        assert said.startswith(f"ORDER_PORT: 127.0.0.1:{crowd.order.port} cannot be used")

    def test_the_port_of_a_service_without_workers_is_taken(self, services: Services) -> None:
        """One line, though several workers were wanted."""
        said = refusal(services.order, ORDER_WORKERS="3")
        assert said.startswith(f"ORDER_PORT: 127.0.0.1:{services.order.port} cannot be used")

    @pytest.mark.parametrize(
        ("variable", "flags", "settings"),
        [
            ("ORDER_CALL_TIMEOUT_S", ("--workers", "3"), {"ORDER_CALL_TIMEOUT_S": "0"}),
            ("ORDER_WORKERS", (), {"ORDER_WORKERS": "0"}),
            ("ORDER_WORKERS", ("--workers", "0"), {"ORDER_WORKERS": "3"}),
            ("ORDER_PORT", ("--workers", "2"), {"ORDER_PORT": "0"}),
        ],
    )
    def test_a_wrong_setting_is_named_once(
        self, variable: str, flags: tuple[str, ...], settings: dict[str, str], services: Services
    ) -> None:
        """By the supervisor, before any worker is started."""
        assert refusal(services.order, *flags, **settings).startswith(f"{variable}: ")

    def test_one_worker_is_no_supervisor(self, services: Services) -> None:
        """The flag wins over the variable; with one there is one process, and its metrics are its own."""
        service = ServiceProcess("inventory", services.inventory.environment, services.inventory.log)
        service.start(INVENTORY_WORKERS="1")
        children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text()
        try:
            assert children == ""
            assert pids_of(service) == {}
            assert [sample.keys() for sample in samples(Server(service.url), "process_open_fds")] == [{"value"}]
        finally:
            assert service.stop() == 0


WORKER_THAT_REFUSES = """
import sys, time
from common.settings import ServiceSettings
from common.workers import supervise
if sys.argv[-2] == "--worker-number":
    if sys.argv[-1] == "1":
        sys.exit(2)
    time.sleep(60)
sys.exit(supervise(ServiceSettings(database_url="mysql://u:p@127.0.0.1/d", port=int(sys.argv[1]), workers=2)))
"""


def test_a_worker_that_refuses_its_settings_ends_them_all() -> None:
    """It would refuse them for ever."""
    command = [sys.executable, "-c", WORKER_THAT_REFUSES, str(free_port())]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2, ended
    assert ended.stderr.count("worker_started") == 2
