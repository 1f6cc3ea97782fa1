"""The load tests: they pass against the real services, and fail, for the right reason, when these misbehave."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web

from tests.processes import Services, free_port
from vv import certs
from vv.databases import Databases

ROOT = Path(__file__).parents[2]
PROMISES = {"no_5xx", "as_documented", "no_oversell", "replays_equal", "charged_once", "orders_end"}

SALE = ("FlashSale", "-u", "30", "-r", "30", "--stock", "20", "--carts", "0", "--bad-cards", "0")
"""Ten buyers too many."""


@dataclass
class Reply:
    """A reply of the order service, on its way to the load test."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]
    delay_s: float = 0.0


Spoil = Callable[[web.Request, Reply], None]


@dataclass(frozen=True)
class Run:
    """What a load test said at its end."""

    exit_code: int
    said: str
    promises: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Checks made and violations, by promise."""

    @property
    def broken(self) -> set[str]:
        return {promise for promise, (_, broken) in self.promises.items() if broken}

    @property
    def checked(self) -> set[str]:
        return {promise for promise, (checks, _) in self.promises.items() if checks}


def run_of(exit_code: int, said: str) -> Run:
    rows = re.findall(r"^(\w+) +(\d+) +(\d+)  (?:kept|BROKEN|never checked)", said, re.MULTILINE)
    return Run(exit_code, said, {name: (int(checks), int(broken)) for name, checks, broken in rows})


def requests_of(run: Run, method: str, name: str) -> tuple[int, int]:
    """How many there were in locust's statistics, and the milliseconds of the fastest."""
    row = re.search(rf"^{method} +{name} +(\d+) .*?\| +\d+ +(\d+)", run.said, re.MULTILINE)
    assert row is not None, run.said
    return int(row[1]), int(row[2])


async def start_locust(services: Services, *arguments: str, host: str = "") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--host", host or services.order.url),
        *("--inventory-url", services.inventory.url, "--payment-url", services.payment.url, "--only-summary"),
        *arguments,
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )


async def load(services: Services, *arguments: str, host: str = "") -> Run:
    """Run a load test without the web page to its end."""
    process = await start_locust(services, "--headless", *arguments, host=host)
    return await end_of(process)


async def end_of(process: asyncio.subprocess.Process) -> Run:
    try:
        async with asyncio.timeout(40):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return run_of(process.returncode, said.decode())


@asynccontextmanager
async def spoilt(services: Services, spoil: Spoil) -> AsyncIterator[str]:
    """The URL of an order service whose replies pass through ``spoil``."""
    async with aiohttp.ClientSession(services.order.url, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def forward(request: web.Request) -> web.Response:
            headers = {name: value for name, value in request.headers.items() if name != "Host"}
            sent = await request.read()
            async with session.request(request.method, request.path_qs, data=sent, headers=headers) as answer:
                kept = ("Content-Type", "Retry-After", "Idempotent-Replayed", "X-Request-ID")
                found = {name: answer.headers[name] for name in kept if name in answer.headers}
                reply = Reply(answer.status, found, await answer.json(content_type=None))
            if request.path != "/readyz":
                spoil(request, reply)
                await asyncio.sleep(reply.delay_s)
            return web.Response(status=reply.status, headers=reply.headers, body=json.dumps(reply.body))

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            port = free_port()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()


def completed_order(**changes: object) -> dict[str, object]:
    now = "2026-01-01T00:00:00Z"
    return {
        "order_id": str(uuid4()),
        "user_id": "nobody",
        "status": "completed",
        "items": [],
        "total_amount": 9_900,
        "currency": "USD",
        "payment_method": "tok_ok",
        "reason": None,
        "created_at": now,
        "updated_at": now,
        **changes,
    }


def crash(request: web.Request, reply: Reply) -> None:
    """Every other order is answered 500, also when it is asked for again."""
    if reply.status == 201 and reply.body["order_id"].endswith(tuple("01234567")):
        reply.status, reply.body = 500, {"code": "internal_error"}


def sell_what_is_not_there(request: web.Request, reply: Reply) -> None:
    """Whoever comes too late is sold a unit all the same."""
    if reply.body.get("code") == "out_of_stock":
        reply.status, reply.body = 201, completed_order()


def sell_one_order_twice() -> Spoil:
    """Everybody is given the first order that was completed."""
    first: list[dict[str, Any]] = []

    def spoil(request: web.Request, reply: Reply) -> None:
        if reply.status == 201:
            first.append(reply.body)
            reply.body = first[0]

    return spoil


def change_replays(request: web.Request, reply: Reply) -> None:
    """A replay has another time in its body."""
    if "Idempotent-Replayed" in reply.headers and reply.status == 201:
        reply.body["updated_at"] = "2026-01-01T00:00:00Z"


def hide_replays(request: web.Request, reply: Reply) -> None:
    """A replay is not marked as one."""
    reply.headers.pop("Idempotent-Replayed", None)


def complete_without_money(request: web.Request, reply: Reply) -> None:
    """A declined order is said to be completed. Its stock has gone back, so that does not add up either."""
    if reply.body.get("code") == "payment_declined":
        reply.status, reply.body = 201, completed_order(order_id=reply.body["order_id"])


def never_end(request: web.Request, reply: Reply) -> None:
    """Orders are accepted and hang."""
    if request.method == "POST" and reply.status == 201:
        reply.status = 202
    if reply.status < 300:
        reply.body["status"] = "inventory_reserved"


def forget_a_field(request: web.Request, reply: Reply) -> None:
    """A reply that is not what the contract says."""
    if reply.status == 201:
        del reply.body["items"]


def overload(request: web.Request, reply: Reply) -> None:
    """A refusal, in place of one that there was: an order that exists must not be hidden."""
    if reply.body.get("code") == "out_of_stock":
        reply.status, reply.body = 503, {"code": "overloaded"}
        reply.headers["Retry-After"] = "1"


def dawdle(request: web.Request, reply: Reply) -> None:
    """Every new order takes a second."""
    reply.delay_s = 1.0 if reply.status == 201 and "Idempotent-Replayed" not in reply.headers else 0.0


# The fault, the promises that it breaks, and no others, and a sentence of the summary.
FAULTS: dict[str, tuple[Spoil, set[str], str]] = {
    "crashes": (crash, {"no_5xx", "orders_end"}, "POST /orders was answered 500 internal_error."),
    "oversells": (
        sell_what_is_not_there,
        {"no_oversell", "charged_once", "replays_equal"},
        "More units of a SKU were sold than were put in.",
    ),
    "sells_one_order_twice": (sell_one_order_twice(), {"no_oversell"}, "Two purchases were given the same order."),
    "changes_replays": (change_replays, {"replays_equal"}, "was answered differently from the first request."),
    "hides_replays": (hide_replays, {"replays_equal"}, "A replay lacks Idempotent-Replayed: true."),
    "takes_no_money": (
        complete_without_money,
        {"charged_once", "no_oversell"},
        "A completed order does not have the one payment that it should have.",
    ),
    "never_ends": (never_end, {"orders_end"}, "An order had not ended 1 s after the run."),
    "forgets_a_field": (
        forget_a_field,
        {"as_documented", "orders_end"},
        "POST /orders was answered 201 with a body that is no Order.",
    ),
    "is_overloaded": (overload, {"no_5xx"}, "POST /orders was answered 503 overloaded."),
}


async def test_promises_are_checked_and_kept(services: Services) -> None:
    """All three scenarios at once against the real services: nothing is broken, and every check was made."""
    run = await load(
        services,
        *("FlashSale", "BrowseAndBuy", "Steady", "-u", "41", "-r", "41", "-t", "4s", "--rate", "40", "--stock", "10"),
        *("--replays", "0.5", "--bad-cards", "0.3"),
    )
    assert run.exit_code == 0, run.said
    assert set(run.promises) == PROMISES, run.said
    assert run.broken == set()
    assert run.checked >= PROMISES - {"orders_end"}
    assert re.search(r"Orders: .*\d+ completed", run.said)
    assert all(f" {outcome}" in run.said for outcome in ("out_of_stock", "payment_declined", "cancelled"))
    # 40 a second, less the first moments; and every buyer of the flash sale.
    assert requests_of(run, "POST", "/orders")[0] > 100


async def test_flash_sale_ends_by_itself(services: Services) -> None:
    """Nobody stays after the rush, so no run time is needed; a promise that was not checked is shown as such."""
    run = await load(services, *SALE, "--replays", "0")
    assert run.exit_code == 0, run.said
    assert "20 put in, 20 sold." in run.said
    assert "Orders: 20 completed, 10 out_of_stock." in run.said
    assert re.search(r"^orders_end +0 +0  never checked", run.said, re.MULTILINE)


@pytest.mark.usefixtures("reached_by_socket")
async def test_services_that_want_certificates(migrated: Databases, tmp_path: Path) -> None:
    """The load shows that of the operator; who has none gets no answer at all."""
    certs.ensure(tmp_path)
    services = Services(migrated.service_urls, tmp_path, tmp_path)
    shown = {"certificate": tmp_path / "operator.crt", "key": tmp_path / "operator.key", "ca": tmp_path / "ca.crt"}
    files = [word for name, path in shown.items() for word in (f"--client-{name}", str(path))]
    try:
        await asyncio.to_thread(services.start)
        run = await load(services, *SALE, *files)
    finally:
        services.stop()
    assert run.exit_code == 0, run.said
    assert "20 put in, 20 sold." in run.said


async def test_steady_load_does_not_wait_for_replies(services: Services) -> None:
    """The rate stays what it is while every order takes a second; who comes while too many are served is a failure."""
    steady = ("Steady", "--rate", "20", "-t", "2s", "--replays", "0", "--payment-checks", "0", "--bad-cards", "0")
    async with spoilt(services, dawdle) as host:
        run, crowded = await asyncio.gather(
            load(services, *steady, host=host), load(services, *steady, "--in-flight-max", "5", host=host)
        )
    assert run.exit_code == 0, run.said
    sent, least_ms = requests_of(run, "POST", "/orders")
    assert sent >= 20, "one buyer after the other would have been two"
    assert least_ms >= 1_000
    assert crowded.exit_code == 1, crowded.said
    assert crowded.broken == set()
    assert "Not sent: 5 buyers are being served already" in crowded.said


@pytest.mark.parametrize("fault", FAULTS)
async def test_broken_promise_fails_the_run(services: Services, fault: str) -> None:
    """Each misbehaviour is found, under the right name and no other, in a sentence, and the exit code is 1."""
    spoil, broken, sentence = FAULTS[fault]
    cards = ("--bad-cards", "0.5" if fault == "takes_no_money" else "0")
    async with spoilt(services, spoil) as host:
        run = await load(services, *SALE, *cards, "--replays", "0.5", "--settle", "1", host=host)
    assert run.exit_code == 1, run.said
    assert run.broken == broken, run.said
    assert all(re.search(rf"PROMISE +{promise} ", run.said) for promise in broken), "not among locust's failures"
    assert sentence in run.said
    assert "PROMISES WERE BROKEN." in run.said


async def test_overload_is_counted_apart_when_it_is_meant(services: Services) -> None:
    """A run that overloads on purpose passes; how often it was refused is said."""
    async with spoilt(services, overload) as host:
        run = await load(services, *SALE, "--replays", "0", "--allow-overload", host=host)
    assert run.exit_code == 0, run.said
    assert "Orders: 20 completed, 10 overloaded." in run.said
    assert "Refused with 503 overloaded: 10 requests." in run.said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--carts", "2"), "2 is not a number from 0 to 1."),
        (("--inventory-url", "http://127.0.0.1:1"), "The service at http://127.0.0.1:1 is not ready"),
        (("--sku-tag", "bad\ttag"), "could not be put in: 400 invalid_request."),
    ],
)
async def test_run_that_cannot_begin(services: Services, arguments: tuple[str, ...], sentence: str) -> None:
    """It ends at once, with 2 and a sentence, no traceback."""
    run = await load(services, "FlashSale", *arguments)
    assert run.exit_code == 2, run.said
    assert sentence in run.said
    assert "Traceback" not in run.said


async def test_web_page(services: Services) -> None:
    """The page takes the scenario and the options, lists broken promises as failures, and the process exits with 1."""
    form = {"user_count": 30, "spawn_rate": 30, "user_classes": "FlashSale", "stock": 20, "carts": 0, "bad_cards": 0}
    page = f"http://127.0.0.1:{free_port()}"
    async with spoilt(services, sell_what_is_not_there) as host, aiohttp.ClientSession(page) as session:
        process = await start_locust(
            services, "--class-picker", "--web-host", "127.0.0.1", "--web-port", page.rpartition(":")[2], host=host
        )
        try:
            await until_answered(session, "/")
            async with session.post("/swarm", data={**form, "host": host}) as answer:
                assert (await answer.json())["success"] is True
            while (stats := await json_of(session, "/stats/requests"))["state"] != "stopped":
                await asyncio.sleep(0.1)
        finally:
            process.terminate()
            run = await end_of(process)
    failures = {(error["method"], error["name"], error["error"]) for error in stats["errors"]}
    sentence = "PromiseBroken('More units of a SKU were sold than were put in.')"
    assert ("PROMISE", "no_oversell", sentence) in failures
    assert run.exit_code == 1, run.said
    assert "20 put in, 30 sold." in run.said


async def until_answered(session: aiohttp.ClientSession, path: str) -> None:
    """Wait for a server to start."""
    async with asyncio.timeout(20):
        while True:
            try:
                async with session.get(path) as answer:
                    assert answer.status == 200
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)


async def json_of(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as answer:
        return await answer.json()
