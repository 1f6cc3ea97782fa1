"""What the client library makes of a network and of proxies that misbehave."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aioresponses import aioresponses
from yarl import URL

from common import context
from common.clients import (
    AsyncInventoryClient,
    AsyncOrderClient,
    AsyncPaymentClient,
    CircuitBreaker,
    CircuitOpen,
    CreatePayment,
    DeadlineExceeded,
    DecreaseStock,
    IdempotencyMismatch,
    InvalidRequest,
    Order,
    OrderStatus,
    OutOfStock,
    Overloaded,
    Payment,
    PaymentDeclined,
    RequestInProgress,
    RetryPolicy,
    ServiceError,
    ServiceUnavailable,
    TooManyRequests,
)
from common.errors import InternalError
from tests.wire import ORDER_ID, QUICK, order

HOST = "http://shop.test"
ORDERS = f"{HOST}/orders"
CREATE_STOCK = f"{HOST}/inventory/create"
DECREASE = f"{HOST}/inventory/decrease"


class _Response(aiohttp.ClientResponse):
    """aioresponses 0.7.9 makes responses without the ``stream_writer`` that aiohttp 3.14 wants."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["stream_writer"] = SimpleNamespace(output_size=0)
        super().__init__(*args, **kwargs)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    monkeypatch.setattr("aioresponses.core.ClientResponse", _Response)
    with aioresponses() as patched:
        yield patched


@pytest.fixture
async def orders() -> AsyncIterator[AsyncOrderClient]:
    async with AsyncOrderClient(HOST, retry=QUICK) as client:
        yield client


@pytest.fixture
async def inventory() -> AsyncIterator[AsyncInventoryClient]:
    async with AsyncInventoryClient(HOST, retry=QUICK) as client:
        yield client


def problem(error: ServiceError) -> dict[str, Any]:
    return {"status": error.status, "payload": error.to_problem(), "content_type": "application/problem+json"}


def sent(wire: aioresponses, method: str = "POST", url: str = ORDERS) -> list[dict[str, Any]]:
    return [call.kwargs for call in wire.requests.get((method, URL(url)), [])]


def header(calls: list[dict[str, Any]], name: str) -> set[str]:
    return {call["headers"][name] for call in calls}


def no_connection() -> aiohttp.ClientConnectorError:
    key = ConnectionKey("shop.test", 80, False, True, None, None, None)
    return aiohttp.ClientConnectorError(key, ConnectionRefusedError(111, "refused"))


async def place(orders: AsyncOrderClient, **changes: Any) -> Order:
    arguments: dict[str, Any] = {"user_id": "ada", "sku": "book", "total_amount": 1999}
    return await orders.create(**arguments | changes)


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        ({"exception": TimeoutError()}, DeadlineExceeded),
        ({"exception": aiohttp.ServerDisconnectedError()}, ServiceUnavailable),
        ({"exception": aiohttp.ClientOSError(104, "Connection reset by peer")}, ServiceUnavailable),
        ({"exception": aiohttp.ClientPayloadError("broke off")}, ServiceUnavailable),
        ({"exception": no_connection()}, ServiceUnavailable),
        ({"status": 201, "body": b"\x00\xff garbage"}, ServiceUnavailable),
        ({"status": 201, "body": order().model_dump_json()[:40]}, ServiceUnavailable),
        ({"status": 201, "body": "{}"}, ServiceUnavailable),
        ({"status": 204, "body": ""}, ServiceUnavailable),
        ({"status": 502, "body": "<html>Bad Gateway</html>", "content_type": "text/html"}, ServiceUnavailable),
        ({"status": 404, "body": "<html>Not Found</html>", "content_type": "text/html"}, ServiceUnavailable),
        ({"status": 302, "headers": {"Location": "/login"}}, ServiceUnavailable),
        ({"status": 429, "body": "slow down", "content_type": "text/plain"}, TooManyRequests),
        (problem(InternalError()), InternalError),
        (problem(Overloaded()), Overloaded),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
async def test_an_unknown_outcome_is_retried_and_never_called_a_refusal(
    wire: aioresponses, orders: AsyncOrderClient, failure: dict[str, Any], raised: type[ServiceError]
) -> None:
    """A timeout, reset, garbage or 5xx is tried again; when attempts run out the error says "unknown"."""
    wire.post(ORDERS, repeat=True, **failure)

    with pytest.raises(raised) as caught:
        await place(orders)

    calls = sent(wire)
    assert len(calls) == 3
    assert not caught.value.is_refusal
    assert caught.value.retryable
    assert {caught.value.request_id} == header(calls, "X-Request-ID")


@pytest.mark.parametrize(
    "refusal", [OutOfStock(lines=[]), PaymentDeclined(), IdempotencyMismatch()], ids=lambda error: error.code
)
async def test_a_refusal_is_raised_at_once_as_its_own_class(
    wire: aioresponses, orders: AsyncOrderClient, refusal: ServiceError
) -> None:
    """What the service definitely refused is not asked again, and arrives as the class it was raised as."""
    wire.post(ORDERS, **problem(refusal))

    with pytest.raises(type(refusal)) as caught:
        await place(orders)

    assert len(sent(wire)) == 1
    assert caught.value.is_refusal
    assert caught.value.extra == refusal.extra


async def test_a_call_succeeds_after_passing_trouble(wire: aioresponses, orders: AsyncOrderClient) -> None:
    """A reset and a proxy's 502 are forgotten when the third attempt is answered."""
    wire.post(ORDERS, exception=aiohttp.ServerDisconnectedError())
    wire.post(ORDERS, status=502, body="<html>")
    wire.post(ORDERS, status=201, body=order().model_dump_json())

    assert (await place(orders)).status is OrderStatus.COMPLETED


async def test_an_accepted_order_is_a_success(wire: aioresponses, orders: AsyncOrderClient) -> None:
    """202 is an order like any other, whose status is not final yet."""
    wire.post(ORDERS, status=202, body=order(OrderStatus.INVENTORY_RESERVED).model_dump_json())

    assert (await place(orders)).status is OrderStatus.INVENTORY_RESERVED


async def test_a_call_has_one_idempotency_key_for_all_its_attempts(
    wire: aioresponses, orders: AsyncOrderClient
) -> None:
    """The key made for a call, and its request id, stay the same over retries; the next call has others."""
    for _ in range(2):
        wire.post(ORDERS, exception=TimeoutError())
        wire.post(ORDERS, status=201, body=order().model_dump_json())
        await place(orders)

    first, second = sent(wire)[:2], sent(wire)[2:]
    for name in ("Idempotency-Key", "X-Request-ID"):
        assert len(header(first, name)) == len(header(second, name)) == 1
        assert header(first, name) != header(second, name)


async def test_the_callers_own_idempotency_key_is_kept(wire: aioresponses, orders: AsyncOrderClient) -> None:
    """A key that the caller chose is sent as it is, at every attempt."""
    wire.post(ORDERS, exception=TimeoutError())
    wire.post(ORDERS, status=201, body=order().model_dump_json())

    await place(orders, idempotency_key="cart-42")

    assert [call["headers"]["Idempotency-Key"] for call in sent(wire)] == ["cart-42", "cart-42"]


async def test_stock_changes_carry_a_request_id_that_survives_retries(
    wire: aioresponses, inventory: AsyncInventoryClient
) -> None:
    """The request id that makes a decrease safe to repeat is in the body, byte for byte the same."""
    wire.post(DECREASE, exception=TimeoutError())
    wire.post(DECREASE, payload={"request_id": "x", "items": []})

    await inventory.decrease(sku="book", quantity=1)

    bodies = [call["data"] for call in sent(wire, url=DECREASE)]
    assert bodies[0] == bodies[1]
    assert json.loads(bodies[0])["request_id"]


async def test_items_of_a_batch_get_request_ids_unless_they_have_them(
    wire: aioresponses, inventory: AsyncInventoryClient
) -> None:
    """A batch is retried as a whole, so every item needs an id; the caller's own are kept."""
    url = f"{DECREASE}/batch"
    refused = {"status": 409, "error": OutOfStock().to_problem()}
    done = {"status": 200, "result": {"request_id": "mine", "items": []}}
    wire.post(url, payload={"items": [done, refused]})

    first, second = await inventory.decrease_batch(
        [DecreaseStock(sku="book", quantity=1, request_id="mine"), DecreaseStock(sku="pen", quantity=1)]
    )

    [mine, made] = [item["request_id"] for item in json.loads(sent(wire, url=url)[0]["data"])["items"]]
    assert mine == "mine"
    assert made
    assert not isinstance(first, ServiceError)
    assert isinstance(second, OutOfStock)


async def test_a_payment_of_a_batch_may_be_pending(wire: aioresponses) -> None:
    """An outcome with status 202 is a payment whose charge is still unknown, not an error."""
    now = datetime.now(UTC).isoformat()
    pending = {
        "payment_id": ORDER_ID, "order_id": ORDER_ID, "amount": 5, "currency": "USD", "payment_method": "tok_ok",
        "status": "pending", "refunded_amount": 0, "reason": None, "created_at": now, "updated_at": now,
    }  # fmt: skip
    wire.post(f"{HOST}/payments/batch", payload={"items": [{"status": 202, "result": pending}]})

    async with AsyncPaymentClient(HOST) as payments:
        [outcome] = await payments.create_batch([CreatePayment(order_id=ORDER_ID, amount=5)])

    assert isinstance(outcome, Payment)
    assert outcome.status == "pending"


@pytest.mark.parametrize(
    "failure",
    [
        {"exception": TimeoutError()},
        {"exception": aiohttp.ServerDisconnectedError()},
        {"status": 201, "body": "garbage"},
        problem(Overloaded()),
    ],
    ids=["timeout", "reset", "garbage", "503"],
)
async def test_a_call_that_is_not_idempotent_is_not_repeated(
    wire: aioresponses, inventory: AsyncInventoryClient, failure: dict[str, Any]
) -> None:
    """Creating a SKU is sent once: after a lost reply "exists already" could mean success or failure."""
    wire.post(CREATE_STOCK, repeat=True, **failure)

    with pytest.raises(ServiceError) as caught:
        await inventory.create(product_id="p", sku="book", quantity=1)

    assert len(sent(wire, url=CREATE_STOCK)) == 1
    assert not caught.value.is_refusal


async def test_a_call_that_is_not_idempotent_is_repeated_if_it_was_never_sent(
    wire: aioresponses, inventory: AsyncInventoryClient
) -> None:
    """Without a connection nothing can have happened, so even creating a SKU is tried again."""
    wire.post(CREATE_STOCK, exception=no_connection())
    wire.post(CREATE_STOCK, status=201, payload={"product_id": "p", "sku": "book", "quantity": 1})

    assert (await inventory.create(product_id="p", sku="book", quantity=1)).quantity == 1


@pytest.mark.alone
async def test_retry_after_is_honoured(wire: aioresponses, orders: AsyncOrderClient) -> None:
    """The client waits at least as long as the service asked, by document or by header."""
    wire.post(ORDERS, **problem(RequestInProgress(retry_after_s=0.2)))
    wire.post(ORDERS, status=503, body="busy", headers={"Retry-After": "1"})
    wire.post(ORDERS, status=201, body=order().model_dump_json())
    started = time.monotonic()

    await place(orders)

    assert 1.2 <= time.monotonic() - started < 2


async def test_a_wait_beyond_the_deadline_is_not_begun(wire: aioresponses) -> None:
    """Told to come back after the deadline, the client says so at once instead of sleeping until then."""
    wire.post(ORDERS, **problem(Overloaded(retry_after_s=60)))
    started = time.monotonic()

    async with AsyncOrderClient(HOST, timeout_s=5) as orders:
        with pytest.raises(Overloaded):
            await place(orders)

    assert time.monotonic() - started < 1


@pytest.mark.alone
async def test_the_deadline_is_for_the_whole_call(wire: aioresponses) -> None:
    """However many attempts are allowed, the call ends within timeout_s."""
    endless = RetryPolicy(attempts_max=10**6, backoff_base_s=0.01, backoff_max_s=0.01, budget_burst=10**6)
    wire.post(ORDERS, repeat=True, **problem(InternalError()))
    started = time.monotonic()

    async with AsyncOrderClient(
        HOST, timeout_s=0.3, retry=endless, breaker=CircuitBreaker(failures_max=10**6)
    ) as orders:
        with pytest.raises(InternalError):
            await place(orders)

    assert 0.2 < time.monotonic() - started < 0.5
    assert len(sent(wire)) > 5


async def test_nothing_is_sent_when_the_deadline_has_passed(wire: aioresponses, orders: AsyncOrderClient) -> None:
    """The deadline of the request that is being served limits the calls made for it."""
    context.set_deadline(0)

    with pytest.raises(DeadlineExceeded):
        await place(orders)

    assert sent(wire) == []


async def test_the_context_travels_with_the_call(wire: aioresponses, orders: AsyncOrderClient) -> None:
    """Request id, trace and the milliseconds that are left go to the next service."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    context.request_id.set("checkout-7")
    context.trace_context.set(trace)
    context.set_deadline(3)
    wire.post(ORDERS, status=201, body=order().model_dump_json())

    await place(orders)

    [call] = sent(wire)
    assert call["headers"]["X-Request-ID"] == "checkout-7"
    assert call["headers"]["traceparent"] == trace
    assert 2000 < int(call["headers"]["X-Deadline-Ms"]) <= 3000


async def test_retries_end_with_the_budget(wire: aioresponses) -> None:
    """When the budget is spent, a call is one attempt: clients do not multiply the load of a service that is down."""
    wire.post(ORDERS, repeat=True, **problem(InternalError()))
    policy = RetryPolicy(attempts_max=3, backoff_base_s=0, budget_burst=3, budget_ratio=0)

    async with AsyncOrderClient(HOST, retry=policy, breaker=CircuitBreaker(failures_max=100)) as orders:
        attempts = []
        for _ in range(4):
            before = len(sent(wire))
            with pytest.raises(InternalError):
                await place(orders)
            attempts.append(len(sent(wire)) - before)

    assert attempts == [3, 2, 1, 1]


async def test_the_breaker_opens_after_failures_in_a_row(wire: aioresponses) -> None:
    """A service that only fails is not called any more; the call that opened it reports the real error."""
    wire.post(ORDERS, repeat=True, **problem(InternalError()))

    async with AsyncOrderClient(HOST, retry=QUICK, breaker=CircuitBreaker(failures_max=2)) as orders:
        with pytest.raises(InternalError):
            await place(orders)
        with pytest.raises(CircuitOpen) as caught:
            await place(orders)

    assert len(sent(wire)) == 2
    assert caught.value.retry_after_s
    assert not caught.value.is_refusal


@pytest.mark.parametrize(
    "reply", [problem(OutOfStock()), problem(RequestInProgress())], ids=["out_of_stock", "request_in_progress"]
)
async def test_refusals_do_not_open_the_breaker(wire: aioresponses, reply: dict[str, Any]) -> None:
    """A flash sale's thousand "out of stock" are the answers of a healthy service."""
    wire.post(ORDERS, repeat=True, **reply)

    async with AsyncOrderClient(HOST, retry=QUICK, breaker=CircuitBreaker(failures_max=1)) as orders:
        for _ in range(5):
            with pytest.raises(ServiceError) as caught:
                await place(orders)
            assert not isinstance(caught.value, CircuitOpen)


class Notes:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.attempts: list[str] = []
        self.seconds = 0.0
        self.breaker_was: list[bool] = []

    def attempted(self, outcome: str, seconds: float) -> None:
        self.attempts.append(outcome)
        self.seconds += seconds

    def breaker(self, *, is_open: bool) -> None:
        self.breaker_was.append(is_open)


async def test_an_observer_is_told_of_each_attempt(wire: aioresponses) -> None:
    """What it came to, also of those that are repeated; and when the breaker opens and closes."""
    notes = Notes()
    clock = [0.0]
    breaker = CircuitBreaker(failures_max=2, open_s=1, clock=lambda: clock[0])
    async with AsyncOrderClient(HOST, retry=QUICK, breaker=breaker, observer=notes) as orders:
        wire.post(ORDERS, exception=aiohttp.ServerDisconnectedError())
        wire.post(ORDERS, status=503)
        with pytest.raises(ServiceUnavailable):
            await orders.create(user_id="ada", sku="book", total_amount=1999)
        with pytest.raises(CircuitOpen):
            await orders.get(ORDER_ID)
        assert notes.breaker_was == [True]
        clock[0] = 2
        wire.get(f"{ORDERS}/{ORDER_ID}", body=order().model_dump_json(), content_type="application/json")
        await orders.get(ORDER_ID)
    assert notes.attempts == ["service_unavailable", "service_unavailable", "circuit_open", "ok"]
    assert notes.breaker_was == [True, False]
    assert 0 < notes.seconds < 5


async def test_an_attempt_that_is_cancelled_is_not_told(wire: aioresponses) -> None:
    """It came to nothing."""
    notes = Notes()

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    wire.get(f"{ORDERS}/{ORDER_ID}", callback=hang)
    async with AsyncOrderClient(HOST, observer=notes) as orders:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await orders.get(ORDER_ID)
    assert (notes.attempts, notes.breaker_was) == ([], [])


async def test_callers_in_a_hurry_do_not_open_the_breaker(wire: aioresponses) -> None:
    """Timeouts of calls that had next to no time say nothing about the service, so others may still call it."""
    wire.post(ORDERS, exception=TimeoutError(), repeat=True)

    async with AsyncOrderClient(HOST, retry=QUICK, breaker=CircuitBreaker(failures_max=1)) as orders:
        context.set_deadline(0.05)
        with pytest.raises(DeadlineExceeded):
            await place(orders)
        context.set_deadline(None)
        with pytest.raises(DeadlineExceeded):
            await place(orders)
        with pytest.raises(CircuitOpen):
            await place(orders)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda orders: place(orders, total_amount=0), "total_amount"),
        (lambda orders: place(orders, total_amount=True), "total_amount"),
        (lambda orders: place(orders, user_id=7), "user_id"),
        (lambda orders: place(orders, sku=None, items={"book": 0}), "quantity"),
        (lambda orders: place(orders, idempotency_key="two\r\nlines"), "Idempotency-Key"),
        (lambda orders: orders.get("../payments"), "order_id"),
        (lambda orders: orders.cancel("1; DROP"), "order_id"),
        (lambda orders: anext(orders.list(status="lost")), "status"),
        (lambda orders: anext(orders.list(page_size=0)), "limit"),
    ],
)
async def test_invalid_arguments_are_named_before_anything_is_sent(
    wire: aioresponses, orders: AsyncOrderClient, call: Callable[[AsyncOrderClient], Any], field: str
) -> None:
    """The error is the one that the service would have answered with, and it names the field."""
    with pytest.raises(InvalidRequest) as caught:
        await call(orders)

    assert [mistake["field"] for mistake in caught.value.extra["errors"]] == [field]
    assert caught.value.is_refusal
    assert wire.requests == {}


async def test_pages_follow_each_other(wire: aioresponses, orders: AsyncOrderClient) -> None:
    """A list asks for the next page when the items of this one are used up, and ends with the last."""
    one = order().model_dump(mode="json")
    wire.get(f"{ORDERS}?limit=2&status=completed", payload={"items": [one, one], "next_cursor": "abc"})
    wire.get(f"{ORDERS}?cursor=abc&limit=2&status=completed", payload={"items": [one]})

    found = [item async for item in orders.list(status="completed", page_size=2)]

    assert len(found) == 3


async def test_waiting_ends_with_a_final_status(wire: aioresponses, orders: AsyncOrderClient) -> None:
    """An order is asked for until it is completed, failed or cancelled."""
    wire.get(f"{ORDERS}/{ORDER_ID}", body=order(OrderStatus.PAID).model_dump_json())
    wire.get(f"{ORDERS}/{ORDER_ID}", body=order(OrderStatus.COMPLETED).model_dump_json())

    assert (await orders.wait(ORDER_ID, timeout_s=5)).status is OrderStatus.COMPLETED


async def test_waiting_ends_with_its_time(wire: aioresponses, orders: AsyncOrderClient) -> None:
    """An order that stays unfinished raises DeadlineExceeded with the status it stays in."""
    wire.get(f"{ORDERS}/{ORDER_ID}", body=order(OrderStatus.PAID).model_dump_json(), repeat=True)

    with pytest.raises(DeadlineExceeded, match="paid"):
        await orders.wait(ORDER_ID, timeout_s=0.1)


@pytest.mark.parametrize("url", ["shop.test", "ftp://shop.test", "http://", "http://shop.test/?a=1", "/orders"])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    """A wrong address fails where it is configured."""
    with pytest.raises(ValueError, match="base_url"):
        AsyncOrderClient(url)


async def test_a_closed_client_says_so(orders: AsyncOrderClient) -> None:
    """Using a client after close() is a mistake of the caller's, not an outage."""
    await orders.close()

    with pytest.raises(RuntimeError, match="closed"):
        await place(orders)
