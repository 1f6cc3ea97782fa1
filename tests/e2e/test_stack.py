"""``vv up`` as its user sees it: one command, real processes, kills and Ctrl-C."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.clients import AsyncInventoryClient, AsyncOrderClient, OrderStatus, RetryPolicy, ServiceError
from tests.e2e.conftest import wait_until
from tests.gateway_process import GatewayProcess
from tests.processes import FAST_RECOVERY, free_port_offset, is_alive

SERVICES = ("order", "inventory", "payment")


class Up:
    """A ``vv up`` in a data folder, as a child process."""

    OPTIONS: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder.with_suffix(".out")
        self._offset = free_port_offset()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self, **environment: str) -> dict[str, Any]:
        """Start it, wait until it is ready, and give ``stack.json``."""
        command = [sys.executable, "-m", "vv", "up", "--data-dir", str(self.folder), *self.OPTIONS]
        self.output.touch()
        ready = self.output.read_text().count("Ready.") + 1
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, "--port-offset", str(self._offset)],
                env={**os.environ, **FAST_RECOVERY, **environment},
                stdout=output,
                stderr=output,
            )
        wait_until(lambda: self.output.read_text().count("Ready.") == ready or self.process.poll() is not None, 60)
        stack = self.stack()
        assert stack is not None, self.output.read_text()
        return stack

    def stack(self) -> dict[str, Any] | None:
        path = self.folder / "stack.json"
        return json.loads(path.read_text()) if path.exists() else None

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)


@pytest.fixture
def up(own_server: None, tmp_path: Path) -> Iterator[Up]:
    stack = Up(tmp_path / "data")
    yield stack
    if stack._process is not None and stack.process.poll() is None:
        stack.end()


def test_up_is_ready_stops_on_ctrl_c_and_is_quick_the_second_time(up: Up) -> None:
    """The stack tells where it is, leaves no process behind, keeps its data, and comes back within seconds."""
    stack = up.start()
    pids = stack["pids"].values()
    assert {*SERVICES, "pids", "database", "gateway", "front_door", "certificates"} == stack.keys()
    assert all(map(is_alive, pids))

    assert up.end(signal.SIGINT) == 0
    assert not any(map(is_alive, pids))
    assert up.stack() is None

    started = time.monotonic()
    up.start()
    assert time.monotonic() - started < 10


def test_the_printed_curl_places_an_order(up: Up) -> None:
    """What ``vv up`` prints for pasting works when pasted."""
    up.start()
    lines = up.output.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("  curl"))

    pasted = subprocess.run(["bash", "-c", "\n".join(lines[first : first + 2])], capture_output=True, check=True)

    assert json.loads(pasted.stdout)["status"] == "completed"


def test_the_audit_looks_into_the_ledger_of_the_stacks_gateway(up: Up, tmp_path: Path) -> None:
    """Without being told where it is: it is in ``stack.json``."""
    gateway = GatewayProcess(tmp_path).start()
    try:
        stack = up.start(PAYMENT_GATEWAY_URL=gateway.url)
        assert stack["gateway"] == gateway.url
        asyncio.run(_order_something(stack))
        usual = {name: value for name, value in os.environ.items() if name != "PAYMENT_GATEWAY_URL"}
        audit = [sys.executable, "-m", "vv", "audit", "--data-dir", str(up.folder)]
        ended = subprocess.run(audit, env=usual, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
    finally:
        gateway.stop()


def test_whatever_dies_is_started_again(up: Up) -> None:
    """A service or database killed with -9 comes back under a new pid, which ``stack.json`` names."""
    before = up.start()["pids"]
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    wait_until(lambda: not set((up.stack() or {"pids": before})["pids"].values()) & set(before.values()), 20)

    after = up.stack()
    assert after is not None
    asyncio.run(_order_something(after))
    assert "was started again" in up.output.read_text()


def test_kill_9_of_vv_leaves_no_process_behind(up: Up) -> None:
    """The children of a killed ``vv up`` end by themselves, and the next one recovers."""
    stack = up.start()
    up.end(signal.SIGKILL)

    wait_until(lambda: not any(map(is_alive, stack["pids"].values())), 30)

    asyncio.run(_order_something(up.start()))


def test_workers_come_back_with_their_service_and_end_with_the_stack(up: Up) -> None:
    """``--workers`` is passed on to each service; a supervisor killed with -9 is replaced, its workers, too."""
    stack = up.start(VV_WORKERS="2")
    before = {service: workers_of(stack["pids"][service]) for service in SERVICES}
    assert [len(workers) for workers in before.values()] == [2, 2, 2]
    for service in SERVICES:
        os.kill(stack["pids"][service], signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for workers in before.values() for pid in workers), 20)
    wait_until(lambda: all(len(workers_of((up.stack() or stack)["pids"][service])) == 2 for service in SERVICES), 20)

    after = up.stack()
    assert after is not None
    asyncio.run(_order_something(after))
    workers = [pid for service in SERVICES for pid in workers_of(after["pids"][service])]
    assert up.end() == 0
    assert not any(map(is_alive, workers))


def test_a_second_ctrl_c_ends_workers_that_still_drain(up: Up) -> None:
    """Not their supervisor alone."""
    stack = up.start(VV_WORKERS="2", ORDER_DRAIN_DELAY_S="60")
    workers = workers_of(stack["pids"]["order"])
    up.process.send_signal(signal.SIGINT)
    wait_until(lambda: '"draining"' in (up.folder / "logs" / "order.log").read_text(), 20)
    assert up.end() == 0
    assert not any(map(is_alive, workers))


def workers_of(supervisor: int) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
    except FileNotFoundError:
        return []


def test_a_folder_belongs_to_one_stack(up: Up) -> None:
    """A second ``vv up`` on the same folder is refused with a sentence, and the first goes on."""
    up.start()
    command = [sys.executable, "-m", "vv", "up", "--data-dir", str(up.folder)]

    second = subprocess.run(command, capture_output=True, text=True, timeout=30)

    assert second.returncode == 3
    assert "in use" in second.stderr
    assert up.process.poll() is None


async def test_crash_point_under_vv_up(up: Up) -> None:
    """A crash point kills the order service once; it comes back, and the order ends where it should."""
    stack = await asyncio.to_thread(up.start, ORDER_CRASH_POINT="charged")
    async with AsyncInventoryClient(stack["inventory"]) as inventory:
        await inventory.create(product_id="p", sku="A", quantity=10)
    async with AsyncOrderClient(stack["order"], retry=RetryPolicy(attempts_max=1)) as orders:
        with pytest.raises(ServiceError):
            await orders.create(user_id="u", sku="A", total_amount=100)
        await asyncio.to_thread(
            wait_until, lambda: (up.stack() or stack)["pids"]["order"] != stack["pids"]["order"], 20
        )
        while not await orders.ready():
            await asyncio.sleep(0.1)
        [order] = [order async for order in orders.list(user_id="u")]
        assert (await orders.wait(order.order_id, timeout_s=30)).status is OrderStatus.COMPLETED


async def test_database_killed_under_load(up: Up) -> None:
    """Orders placed while the database is killed are not lost: what was accepted ends, and the books are clean."""
    stack = await asyncio.to_thread(up.start)
    async with (
        AsyncInventoryClient(stack["inventory"]) as inventory,
        AsyncOrderClient(stack["order"], timeout_s=40) as orders,
    ):
        await inventory.create(product_id="p", sku="A", quantity=1_000)
        buying = [asyncio.create_task(orders.create(user_id=f"u{n}", sku="A", total_amount=100)) for n in range(150)]
        await asyncio.sleep(0.3)
        os.kill(stack["pids"]["database"], signal.SIGKILL)
        outcomes = await asyncio.gather(*buying, return_exceptions=True)
        accepted = [order.order_id for order in outcomes if not isinstance(order, BaseException)]
        assert all(
            isinstance(one, ServiceError) and not one.is_refusal for one in outcomes if isinstance(one, Exception)
        )
        while not await orders.ready():
            await asyncio.sleep(0.1)
        ended = [await orders.wait(order_id, timeout_s=60) for order_id in accepted]
    assert {order.status for order in ended} == {OrderStatus.COMPLETED}
    # Those whose buyers never heard of them end, too.
    wait_until(lambda: not _unfinished(up), 60)
    audited = subprocess.run(
        [sys.executable, "-m", "vv", "audit", "--data-dir", str(up.folder), "--json"], capture_output=True, timeout=60
    )
    assert json.loads(audited.stdout)["violations"] == []


def _unfinished(up: Up) -> list[str]:
    command = [sys.executable, "-m", "vv", "order", "list", "--data-dir", str(up.folder), "--json"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [status for status in ("created", "inventory_reserved", "paid", "failing") if f'"{status}"' in printed]


async def _order_something(stack: dict[str, Any]) -> None:
    async with AsyncInventoryClient(stack["inventory"]) as inventory, AsyncOrderClient(stack["order"]) as orders:
        while not (await inventory.ready() and await orders.ready()):
            await asyncio.sleep(0.1)
        await inventory.create(product_id="p", sku="A", quantity=10)
        placed = await orders.create(user_id="u", sku="A", total_amount=100)
        assert (await orders.wait(placed.order_id, timeout_s=30)).status is OrderStatus.COMPLETED
