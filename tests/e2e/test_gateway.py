"""``vv gateway`` as its callers see it: a real process that is killed, and what its ledger says afterwards."""

import asyncio
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.buyers import Got
from tests.conftest import log_of
from tests.gateway_process import GatewayProcess


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path, "--slow-s", "0.3").start()
    yield process
    if process.process.poll() is None:
        process.kill()


class Till:
    """Somebody who charges and refunds at a gateway."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> Got:
        headers = {} if key is None else {"Idempotency-Key": key}
        try:
            async with self._session.request(method, path, json=body, headers=headers) as reply:
                return Got(reply.status, await reply.json(content_type=None))
        except (aiohttp.ClientConnectionError, ConnectionError):
            return Got(0)

    async def charge(self, key: str, method: str = "tok_ok", amount: int = 700) -> Got:
        body = {"amount": amount, "currency": "USD", "payment_method": method, "reference": "order"}
        return await self.call("POST", "/charges", body, key)

    async def refund(self, key: str, charge_key: str, amount: int) -> Got:
        return await self.call("POST", "/refunds", {"charge_key": charge_key, "amount": amount, "currency": "USD"}, key)


@pytest.fixture
async def till(gateway: GatewayProcess) -> AsyncIterator[Till]:
    async with aiohttp.ClientSession(gateway.url) as session:
        yield Till(session)


@pytest.mark.parametrize(
    ("method", "status", "state", "reason"),
    [
        ("tok_ok", 201, "approved", None),
        ("tok_slow", 201, "approved", None),
        ("tok_declined", 201, "declined", "card_declined"),
        ("tok_unheard_of", 201, "declined", "unknown_card"),
    ],
)
async def test_the_method_decides(method: str, status: int, state: str, reason: str | None, till: Till) -> None:
    """The first answer, the answer to each repetition and the answer to who asks are one."""
    first = await till.charge("c", method)
    again = await till.charge("c", method)
    found = await till.call("GET", "/charges/c")
    assert (first.status, again.status, found.status) == (status, 200, 200)
    assert first.body == again.body == found.body == {"id": "charge_1", "status": state, "reason": reason}


async def test_a_lost_reply_and_a_failure(till: Till, gateway: GatewayProcess) -> None:
    """``tok_timeout`` is charged and the connection breaks, ``tok_error`` is answered 500 and charges nothing."""
    assert (await till.charge("lost", "tok_timeout")).status == 0
    assert (await till.call("GET", "/charges/lost")).body["status"] == "approved"
    assert (await till.charge("failed", "tok_error")).status == 500
    assert (await till.call("GET", "/charges/failed")).code == "charge_not_found"
    assert [entry["key"] for entry in gateway.entries()] == ["lost"]


async def test_another_body_and_refund_bounds(till: Till) -> None:
    """422 for a key that means something else, 404 and 409 for what there is not to give back."""
    await till.charge("c")
    assert (await till.charge("c", amount=701)).status == 422
    assert (await till.refund("r0", "nothing", 1)).code == "charge_not_found"
    assert (await till.refund("r0", "c", 701)).code == "refund_exceeds_charge"
    assert [(await till.refund("r1", "c", 500)).status for _ in range(2)] == [201, 200]
    assert (await till.refund("r1", "c", 400)).status == 422
    assert (await till.refund("r2", "c", 201)).status == 409
    assert (await till.refund("r2", "c", 200)).status == 201


async def test_a_cancelled_key_refuses_a_charge_that_is_under_way(till: Till, gateway: GatewayProcess) -> None:
    """The charge was sent before, and arrives afterwards: it is answered that its key is cancelled."""
    late = asyncio.create_task(till.charge("c", "tok_slow"))
    await asyncio.sleep(0.1)
    assert (await till.call("POST", "/charges/c/cancel")).status == 201
    assert ((await late).status, (await late).body["status"]) == (200, "cancelled")
    assert [(entry["kind"], entry["status"], entry["amount"]) for entry in gateway.entries()] == [
        ("cancel", "cancelled", 0)
    ]


async def test_behaviour_takes_effect_at_once(till: Till, gateway: GatewayProcess) -> None:
    """Down, failing after it charged, declining, slow, and back; what is left out stays, nonsense is refused."""
    behave = gateway.behave
    await asyncio.to_thread(behave, unavailable=True, decline_share=1)
    assert (await till.charge("a")).status == 503
    assert (await till.call("GET", "/charges/a")).status == 503
    await asyncio.to_thread(behave, unavailable=False)
    assert (await till.charge("a")).body["reason"] == "card_declined"
    await asyncio.to_thread(behave, decline_share=0, error_after_charging=1)
    assert (await till.charge("b")).status == 500
    assert (await till.call("GET", "/charges/b")).body["status"] == "approved"
    assert (await till.refund("r", "b", 700)).status == 500
    await asyncio.to_thread(behave, error_after_charging=0, latency_s=0.3)
    started = time.monotonic()
    assert (await till.refund("r", "b", 700)).status == 200
    assert time.monotonic() - started >= 0.3
    assert (await till.call("PUT", "/behaviour", {"decline_share": 2})).status == 400
    assert (await till.call("GET", "/behaviour")).body == {
        "latency_s": 0.3,
        "slow_s": 0.3,
        "decline_share": 0.0,
        "error_after_charging": 0.0,
        "unavailable": False,
    }
    assert Counter(entry["kind"] for entry in gateway.entries()) == {"charge": 2, "refund": 1}


async def test_pages_of_the_ledger_are_the_file(till: Till, gateway: GatewayProcess) -> None:
    """Nothing is left out between pages, and the last one says that it is the last."""
    await asyncio.gather(*(till.charge(f"c{n}") for n in range(7)))
    pages: list[list[dict[str, Any]]] = []
    after: int | None = 0
    while after is not None:
        page = (await till.call("GET", f"/ledger?after={after}&limit=3")).body
        pages.append(page["entries"])
        after = page["next"]
    assert [len(page) for page in pages] == [3, 3, 1]
    told = [{name: value for name, value in entry.items() if value is not None} for page in pages for entry in page]
    assert told == gateway.entries()
    assert [entry["n"] for entry in told] == [1, 2, 3, 4, 5, 6, 7]
    assert (await till.call("GET", "/ledger?after=7")).body == {"entries": [], "next": None}


async def test_kill_9_loses_nothing_that_was_answered(gateway: GatewayProcess) -> None:
    """Thirty-two tills charge, refund and cancel while the gateway is killed five times, with a torn line once: every
    answer is in the ledger, no key is there twice, and what was not answered can be repeated."""
    answered: dict[str, dict[str, Any]] = {}
    stop = asyncio.Event()

    async def keep_charging(number: int) -> None:
        async with aiohttp.ClientSession(gateway.url) as session:
            till = Till(session)
            for n in range(100_000):
                if stop.is_set():
                    return
                key = f"{number}:{n}"
                calls: dict[str, Callable[[], Awaitable[Got]]] = {
                    f"{key}:charge": partial(till.charge, f"{key}:charge"),
                    f"{key}:refund": partial(till.refund, f"{key}:refund", f"{key}:charge", 300),
                    f"{key}:void": partial(till.call, "POST", f"/charges/{key}:void/cancel"),
                }
                for name, call in calls.items():
                    while (got := await call()).status == 0:
                        await asyncio.sleep(0.02)
                    assert got.status in (200, 201), got
                    answered[name] = got.body

    tills = [asyncio.create_task(keep_charging(number)) for number in range(32)]
    chance = random.Random(4)
    for life in range(5):
        await asyncio.sleep(chance.uniform(0.2, 0.6))
        gateway.kill()
        if life == 2:
            with gateway.ledger.open("a") as file:
                file.write('{"n":')
        await asyncio.to_thread(gateway.start)
    stop.set()
    await asyncio.gather(*tills)

    entries = gateway.entries()
    assert len(answered) > 500
    assert max(Counter(entry["key"] for entry in entries).values()) == 1
    assert {entry["key"]: (f"{entry['kind']}_{entry['n']}", entry["status"]) for entry in entries} == {
        key: (body["id"], body["status"]) for key, body in answered.items()
    }


async def test_a_full_disk_ends_it_and_loses_nothing_that_was_answered(gateway: GatewayProcess, till: Till) -> None:
    """Nobody knows what a disk that failed has kept: who was not answered hears so, and the file is read again."""
    answered = [await till.charge(f"c{n}") for n in range(20)]
    size = gateway.ledger.stat().st_size
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (size + 1_000, resource.RLIM_INFINITY))
    late = await asyncio.gather(*(till.charge(f"late{n}") for n in range(20)))
    assert await asyncio.to_thread(gateway.process.wait, 10) == 3
    assert "cannot be written any more; make room, and start the gateway again." in log_of(gateway.log)
    assert Counter(got.status for got in late).keys() <= {0, 201, 503}
    assert gateway.ledger.stat().st_size == size + 1_000
    await asyncio.to_thread(gateway.start)
    told = [*answered, *(got for got in late if got.status == 201)]
    assert {f"charge_{entry['n']}" for entry in gateway.entries()} >= {got.body["id"] for got in told}
    assert (await till.charge("after")).status == 201


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "vv", "gateway", *arguments], capture_output=True, text=True, timeout=20, check=False
    )


def test_what_cannot_be_used_is_named(gateway: GatewayProcess, tmp_path: Path) -> None:
    """A taken port, a taken ledger, a file that is none: exit code 3 and one sentence. No ledger: wrong usage."""
    other = tmp_path / "notes.txt"
    other.write_text("eggs\n")
    taken = run("--port", str(gateway.port), "--ledger", str(tmp_path / "another"))
    assert (taken.returncode, taken.stderr) == (
        3,
        f"Error: --port {gateway.port} cannot be used: Address already in use.\n",
    )
    shared = run("--port", "0", "--ledger", str(gateway.ledger))
    assert shared.returncode == 3
    assert "is in use by another gateway" in shared.stderr
    wrong = run("--port", "0", "--ledger", str(other))
    assert wrong.returncode == 3
    assert "line 1 is not entry 1 of a ledger" in wrong.stderr
    assert run().returncode == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_when_asked_and_goes_on_where_it_was(number: signal.Signals, gateway: GatewayProcess) -> None:
    """Exit code 0, without waiting for clients that keep their connection; the next life knows the charges."""
    async with aiohttp.ClientSession(gateway.url) as session:
        first = await Till(session).charge("c")
        gateway.process.send_signal(number)
        assert await asyncio.to_thread(gateway.process.wait, 10) == 0
    await asyncio.to_thread(gateway.start)
    async with aiohttp.ClientSession(gateway.url) as session:
        assert (await Till(session).charge("c")).body == first.body
