"""Traces, as a real collector receives them: a checkout is one trace, whoever carries it along or takes it up."""

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import tracing
from common.clients import AsyncInventoryClient, AsyncOrderClient, Order, OrderStatus
from common.context import trace_context
from tests.conftest import log_of
from tests.database_server import DatabaseServer
from tests.e2e.conftest import wait_until
from tests.e2e.raw import Server
from tests.otlp_receiver import Receiver, Span
from tests.processes import Services
from vv.databases import Databases

SERVICES = {"order", "inventory", "payment"}
SERVER, CLIENT = 2, 3


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    database_server: DatabaseServer, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """The three services, which record every trace. Nobody else takes up what they leave unfinished."""
    settings = {"TRACE_ENDPOINT": receiver.url, "TRACE_SAMPLE_RATIO": "1"}
    with database_server.further_stack("traced") as urls:
        running = Services(urls, tmp_path_factory.mktemp("logs"), **settings)
        try:
            yield running.start()
        finally:
            running.stop()


def new_trace(number: int, *, sampled: bool = True) -> str:
    return f"00-{number:032x}-{number:016x}-{'01' if sampled else '00'}"


async def buy(traced: Services, sku: str, trace: str, payment_method: str = "tok_ok") -> Order:
    """As a caller who is within a trace of his own."""
    async with AsyncOrderClient(traced.order.url) as orders:
        token = trace_context.set(trace)
        try:
            return await orders.create(user_id="ada", sku=sku, total_amount=5, payment_method=payment_method)
        finally:
            trace_context.reset(token)


@pytest.fixture
async def sku(traced: Services) -> str:
    async with AsyncInventoryClient(traced.inventory.url) as inventory:
        return (await inventory.create(product_id="p", sku=f"TRACE-{id(inventory)}", quantity=1_000)).sku


def trace_of(receiver: Receiver, number: int, *, complete: int = 3) -> list[Span]:
    """The spans of a trace, once all of its services have sent theirs."""
    found: list[Span] = []

    def is_complete() -> bool:
        found[:] = [span for span in receiver.spans() if span.trace == f"{number:032x}"]
        known = {span.id for span in found}
        services = {span.service for span in found}
        return len(services) == complete and not [
            span for span in found if span.parent not in {*known, f"{number:016x}"}
        ]

    wait_until(is_complete, 15)
    return found


async def test_one_checkout_is_one_trace(traced: Services, receiver: Receiver, sku: str) -> None:
    """Across three services, from the caller's own span on, and no span whose parent is missing."""
    await buy(traced, sku, new_trace(1))
    spans = trace_of(receiver, 1)
    assert {span.service for span in spans} == SERVICES
    [root] = [span for span in spans if span.parent == f"{1:016x}"]
    assert (root.name, root.kind, root.attributes["http.response.status_code"]) == ("POST /orders", SERVER, 201)
    names = {(span.service, span.name) for span in spans}
    assert names >= {
        ("order", "batch begin"), ("order", "accept"), ("order", "take stock"), ("order", "take money"),
        ("order", "write outcomes"), ("order", "transaction"),
        ("order", "POST /inventory/decrease/batch"), ("inventory", "POST /inventory/decrease/batch"),
        ("order", "POST /payments/batch"), ("payment", "POST /payments/batch"),
        ("inventory", "transaction"), ("payment", "gateway charge"), ("payment", "transaction"),
    }  # fmt: skip
    assert all(span.begin <= span.end for span in spans)


async def test_statements_have_names_and_no_values(traced: Services, receiver: Receiver, sku: str) -> None:
    """A transaction says what it did to which tables."""
    order = await buy(traced, sku, new_trace(2))
    spans = trace_of(receiver, 2)
    summaries = {str(span.attributes.get("db.query.summary")) for span in spans if span.name == "transaction"}
    assert any("INSERT orders" in summary and "COMMIT" in summary for summary in summaries), summaries
    assert any("inventory" in summary and "INSERT stock_ledger" in summary for summary in summaries), summaries
    told = json.dumps([span.attributes for span in spans])
    assert sku not in told
    assert "ada" not in told
    assert order.order_id not in told


async def test_those_who_share_a_batch_are_linked(traced: Services, receiver: Receiver, sku: str) -> None:
    """Each of 40 orders has its own request and charge in its own trace, and leads to the batch that carried it."""
    await asyncio.gather(*(buy(traced, sku, new_trace(number)) for number in range(100, 140)))
    spans = [span for number in range(100, 140) for span in trace_of_one(receiver, number)]
    batches = {(span.trace, span.id): span for span in spans if span.name == "batch begin"}
    requests = {(span.trace, span.id): span for span in spans if span.name == "POST /orders"}
    carried: list[tuple[str, str]] = []
    for batch_id, batch in batches.items():
        carried += [(batch.trace, batch.parent), *batch.links]
        assert len(batch.links) == int(str(batch.attributes["vv.batch.items"])) - 1
        assert all(batch_id in requests[link].links for link in batch.links)
    assert sorted(carried) == sorted(requests)
    assert len(batches) < len(requests)


def trace_of_one(receiver: Receiver, number: int) -> list[Span]:
    """As :func:`trace_of`, for an order whose calls may be in the trace of another one of its group."""
    complete = {"POST /orders", "gateway charge"}
    found: list[Span] = []

    def is_complete() -> bool:
        found[:] = [span for span in receiver.spans() if span.trace == f"{number:032x}"]
        known = {span.id for span in found} | {f"{number:016x}"}
        return {span.name for span in found} >= complete and all(span.parent in known for span in found)

    wait_until(is_complete, 15)
    return found


async def test_recovery_goes_on_with_the_trace(traced: Services, receiver: Receiver, sku: str) -> None:
    """An order whose charge is unknown is finished by recovery, in the trace of the request that began it."""
    order = await buy(traced, sku, new_trace(3), payment_method="tok_timeout")
    assert order.status is OrderStatus.INVENTORY_RESERVED
    async with AsyncOrderClient(traced.order.url) as orders:
        await orders.wait(order.order_id, timeout_s=20)
    recoveries = {"recover orders", "recover payments"}
    wait_until(lambda: recoveries <= {span.name for span in receiver.spans() if span.trace == f"{3:032x}"}, 15)
    spans = trace_of(receiver, 3)
    # On a busy machine it comes by more than once.
    recovered = {span.attributes["vv.order_id"] for span in spans if span.name == "recover orders"}
    assert recovered == {order.order_id}
    assert [span.has_failed for span in spans if span.name == "gateway charge"] == [True]


async def test_a_caller_decides_that_nothing_is_recorded(traced: Services, receiver: Receiver, sku: str) -> None:
    """The flag of his traceparent counts in all services, also for orders that share a batch with recorded ones."""
    await asyncio.gather(*(buy(traced, sku, new_trace(200 + n, sampled=n % 2 == 0)) for n in range(20)))
    for number in range(200, 220, 2):
        trace_of_one(receiver, number)
    assert {span.trace for span in receiver.spans()} & {f"{number:032x}" for number in range(201, 220, 2)} == set()


async def test_log_lines_carry_the_ids(traced: Services, receiver: Receiver, sku: str) -> None:
    """The line of a request names its trace and its span, by which either is found from the other."""
    await buy(traced, sku, new_trace(4))
    spans = trace_of(receiver, 4)
    for service in traced.all:
        lines = [json.loads(line) for line in log_of(service.log).splitlines() if f"{4:032x}" in line]
        own = {span.id for span in spans if span.service == service.name and span.kind == SERVER}
        assert own & {line["span_id"] for line in lines if line["event"] == "request"}


def test_health_checks_are_not_recorded(receiver: Receiver, traced: Services) -> None:
    """They would bury the rest."""
    assert all(service.is_ready() for service in traced.all)
    assert [span.name for span in receiver.spans() if re.search("livez|readyz|health|metrics", span.name)] == []


async def test_who_begins_a_trace_decides_for_all(migrated: Databases, receiver: Receiver, tmp_path: Path) -> None:
    """What the order service does not record, the services that it calls do not either: a trace has a beginning."""
    quiet = Services(migrated.service_urls, tmp_path, TRACE_ENDPOINT=receiver.url)
    before = len(receiver.spans())
    try:
        quiet.start(ORDER_TRACE_SAMPLE_RATIO="0", INVENTORY_TRACE_SAMPLE_RATIO="1", PAYMENT_TRACE_SAMPLE_RATIO="1")
        async with AsyncInventoryClient(quiet.inventory.url) as inventory, AsyncOrderClient(quiet.order.url) as orders:
            sku = (await inventory.create(product_id="p", sku=f"QUIET-{id(inventory)}", quantity=99)).sku
            ordering = (orders.create(user_id="ada", sku=sku, total_amount=5) for _ in range(20))
            assert {order.status for order in await asyncio.gather(*ordering)} == {OrderStatus.COMPLETED}
    finally:
        quiet.stop()
    begun = {span.name for span in receiver.spans()[before:] if not span.parent}
    assert begun == {"POST /inventory/create"}


def test_an_error_of_ours_is_one_in_its_trace(traced: Services, receiver: Receiver) -> None:
    """Whoever searches for errors finds what was answered with 5xx, and not what somebody else did wrong."""
    server = Server(traced.inventory.url)
    for number, deadline in ((6, "0"), (7, "9000")):
        headers = {"traceparent": new_trace(number), "X-Deadline-Ms": deadline}
        assert server.call("GET", "/inventory/sku?sku=none", headers=headers).status == (504 if number == 6 else 404)
    for number, has_failed in ((6, True), (7, False)):
        [request] = [span for span in trace_of(receiver, number, complete=1) if span.kind == SERVER]
        assert request.has_failed is has_failed


async def test_a_collector_that_is_down_hurts_nobody(migrated: Databases, tmp_path: Path) -> None:
    """Orders are completed, and the service ends in time, when its traces go nowhere."""
    nowhere = Services(migrated.service_urls, tmp_path, TRACE_ENDPOINT="http://127.0.0.1:9", TRACE_SAMPLE_RATIO="1")
    try:
        nowhere.start()
        async with AsyncInventoryClient(nowhere.inventory.url) as inventory:
            await inventory.create(product_id="p", sku=f"NOWHERE-{id(inventory)}", quantity=9)
            order = await buy(nowhere, f"NOWHERE-{id(inventory)}", new_trace(5))
        assert order.status is OrderStatus.COMPLETED
    finally:
        assert [service.stop() for service in nowhere.all] == [0, 0, 0]


@pytest.mark.alone
async def test_a_collector_that_is_silent_holds_up_no_end() -> None:
    """Whatever is queued for it: two seconds, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        running = tracing.recording("x", f"http://127.0.0.1:{silent.getsockname()[1]}", 1.0)
        async with contextlib.asynccontextmanager(running)(None):
            for _ in range(1500):
                with tracing.request_span("x", {}):
                    pass
            began = time.monotonic()
    assert 1.5 < time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("INSERT INTO orders (a) VALUES %s", "INSERT orders"),
        ("UPDATE orders SET version = 1 WHERE order_id = %s", "UPDATE orders"),
        ("SELECT a, b FROM stock_ledger WHERE sku = 'INTO x'", "SELECT stock_ledger"),
        ("SELECT 1", "SELECT"),
        ("COMMIT", "COMMIT"),
    ],
)
def test_the_name_of_a_statement(sql: str, name: str) -> None:
    """What it does, and to which table."""
    assert tracing.statement_name(sql) == name
