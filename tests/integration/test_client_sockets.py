"""The client library over real sockets: what a patched aiohttp cannot show, and the blocking clients."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import aiohttp
import pytest
from aiohttp import web

from common import context
from common.clients import (
    AsyncInventoryClient,
    AsyncOrderClient,
    CircuitBreaker,
    DeadlineExceeded,
    Order,
    OrderClient,
    OutOfStock,
    RetryPolicy,
    ServiceUnavailable,
)
from tests.wire import ORDER_ID, QUICK, hang_up, order

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], str]

ORDER = order()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve a handler on a free port, in a thread of its own so that blocking clients can call it; return its URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> str:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await handler(request)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def stop() -> None:
        for runner in runners:
            await runner.cleanup()

    try:
        yield lambda handler: asyncio.run_coroutine_threadsafe(start(handler), loop).result(5)
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def reply(_: web.Request) -> web.Response:
    return web.json_response(text=ORDER.model_dump_json())


async def refuse(_: web.Request) -> web.Response:
    return web.json_response(OutOfStock("book: 1 asked for, 0 left.").to_problem("r-1"), status=409)


class Script:
    """A handler that does something else at each request; the last action is repeated."""

    def __init__(self, *actions: Handler) -> None:
        self.actions = actions
        self.requests: list[web.Request] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.actions[min(len(self.requests), len(self.actions)) - 1](request)

    def header(self, name: str) -> list[str]:
        return [request.headers[name] for request in self.requests]


async def say_nothing(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


async def send_half(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(ORDER.model_dump_json().encode()[:50])
    return await hang_up(request)


async def not_http(request: web.Request) -> web.Response:
    assert isinstance(request.transport, asyncio.Transport)
    request.transport.write(b"220 mail.example ESMTP\r\n\r\n")
    return await hang_up(request)


def place(orders: OrderClient) -> Order:
    return orders.create(user_id="ada", sku="book", total_amount=1999)


async def place_async(orders: AsyncOrderClient) -> Order:
    return await orders.create(user_id="ada", sku="book", total_amount=1999)


@pytest.mark.parametrize("failure", [hang_up, send_half, not_http])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_broken_reply_is_an_unknown_outcome(serve: Serve, failure: Handler, method: str) -> None:
    """A reset, half a body and a reply that is not HTTP are retried, as often as the policy says and no more.

    Above all aiohttp's own second try of a GET is off.
    """
    script = Script(failure)
    async with AsyncOrderClient(serve(script), retry=QUICK) as orders:
        with pytest.raises(ServiceUnavailable) as caught:
            await (orders.get(ORDER_ID) if method == "GET" else place_async(orders))

    assert len(script.requests) == 3
    assert not caught.value.is_refusal
    assert str(script.requests[0].path) in caught.value.detail


@pytest.mark.alone
async def test_a_silent_connection_leaves_time_for_another(serve: Serve) -> None:
    """An attempt has a timeout of its own, and each one tells the service how much of the whole call is left."""
    script = Script(say_nothing, reply)
    policy = RetryPolicy(attempt_timeout_s=0.2, backoff_base_s=0)

    async with AsyncOrderClient(serve(script), timeout_s=5, retry=policy) as orders:
        assert await place_async(orders) == ORDER

    first, second = map(int, script.header("X-Deadline-Ms"))
    assert 4500 < first <= 5000
    assert second <= first - 200
    assert len(set(script.header("Idempotency-Key"))) == 1


@pytest.mark.alone
async def test_silence_ends_with_the_deadline_of_the_whole_call(serve: Serve) -> None:
    """A service that never answers costs the caller timeout_s, and not a moment per attempt more."""
    policy = RetryPolicy(attempt_timeout_s=0.15, backoff_base_s=0)
    started = time.monotonic()

    async with AsyncOrderClient(serve(Script(say_nothing)), timeout_s=0.4, retry=policy) as orders:
        with pytest.raises(DeadlineExceeded):
            await place_async(orders)

    assert 0.3 < time.monotonic() - started < 0.6


async def test_nobody_listens(unused_tcp_port: int) -> None:
    """Without a service the calls say that the connection failed, and ready() is False."""
    async with AsyncInventoryClient(f"http://127.0.0.1:{unused_tcp_port}", retry=QUICK) as inventory:
        with pytest.raises(ServiceUnavailable, match="connection failed"):
            await inventory.create(product_id="p", sku="book", quantity=1)

        assert not await inventory.ready()


async def test_ready_means_status_200(serve: Serve) -> None:
    """A service that answers but cannot work is not ready."""

    async def unready(_: web.Request) -> web.Response:
        return web.Response(status=503)

    script = Script(unready, reply)
    async with AsyncOrderClient(serve(script)) as orders:
        assert [await orders.ready(), await orders.ready()] == [False, True]

    assert script.requests[0].path == "/readyz"


@pytest.mark.parametrize("prefix", ["", "/", "/shop/v1", "/shop/v1/"])
async def test_the_base_url_may_have_a_prefix(serve: Serve, prefix: str) -> None:
    """A service behind a gateway is reached below its path, whether or not the URL ends in a slash."""
    script = Script(reply)
    async with AsyncOrderClient(serve(script) + prefix) as orders:
        await orders.get(ORDER_ID)

    assert script.requests[0].path == f"{prefix.rstrip('/')}/orders/{ORDER_ID}"


async def test_queries_are_escaped(serve: Serve) -> None:
    """A SKU may contain every printable character, also those with a meaning in URLs."""
    sku = "a&b=c #1%20+?/;"

    async def level(request: web.Request) -> web.Response:
        return web.json_response({"product_id": "p", "sku": request.query["sku"], "quantity": 1})

    async with AsyncInventoryClient(serve(level)) as inventory:
        assert (await inventory.get(sku)).sku == sku


async def test_three_hundred_calls_are_on_their_way_at_once(serve: Serve) -> None:
    """aiohttp's hundred connections are not the limit: no call waits for another one's reply."""
    everybody = asyncio.Barrier(300)

    async def meet(request: web.Request) -> web.StreamResponse:
        await everybody.wait()
        return await reply(request)

    async with AsyncOrderClient(serve(meet)) as orders:
        found = await asyncio.gather(*(place_async(orders) for _ in range(300)))

    assert len(found) == 300


async def test_a_service_that_comes_back_closes_the_breaker(serve: Serve) -> None:
    """After its time the breaker lets a probe through, and with the reply everybody."""
    script = Script(hang_up, reply)
    breaker = CircuitBreaker(failures_max=1, open_s=0.05)
    async with AsyncOrderClient(serve(script), retry=QUICK, breaker=breaker) as orders:
        with pytest.raises(ServiceUnavailable):
            await place_async(orders)
        assert breaker.is_open
        await asyncio.sleep(0.06)

        assert await place_async(orders) == ORDER
    assert not breaker.is_open


async def test_a_cancelled_probe_leaves_the_breaker_usable(serve: Serve) -> None:
    """A caller that goes away during the probe neither counts as a failure nor blocks the next probe."""
    breaker = CircuitBreaker(failures_max=1, open_s=0)
    async with AsyncOrderClient(
        serve(Script(hang_up, say_nothing, reply)), retry=RetryPolicy(attempts_max=1), breaker=breaker
    ) as orders:
        with pytest.raises(ServiceUnavailable):
            await place_async(orders)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await place_async(orders)

        assert await place_async(orders) == ORDER


async def test_a_session_of_the_callers_own_stays_open(serve: Serve) -> None:
    """Who brings a session closes it; whether it raises for a status makes no difference to the client."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with AsyncOrderClient(serve(refuse), session=session) as orders:
            with pytest.raises(OutOfStock):
                await orders.get(ORDER_ID)

        assert not session.closed


async def test_a_blocking_client_works_inside_a_running_loop(serve: Serve) -> None:
    """In a notebook or a coroutine there is a running loop already; the client does not use or disturb it."""
    with OrderClient(serve(reply)) as orders:
        assert place(orders) == ORDER
    await asyncio.sleep(0)


def test_threads_share_a_blocking_client(serve: Serve) -> None:
    """Calls of several threads run at the same time, not one after the other."""
    everybody = asyncio.Barrier(8)

    async def meet(request: web.Request) -> web.StreamResponse:
        await everybody.wait()
        return await reply(request)

    with OrderClient(serve(meet)) as orders, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: place(orders), range(8)))

    assert found == [ORDER] * 8


def test_a_blocking_client_raises_the_same_errors(serve: Serve) -> None:
    """Errors cross the thread as the classes that they are, and name the request."""
    with OrderClient(serve(refuse)) as orders, pytest.raises(OutOfStock, match="0 left") as caught:
        place(orders)

    assert caught.value.request_id == "r-1"


def test_a_blocking_list_is_read_page_by_page(serve: Serve) -> None:
    """A page is only fetched when its items are asked for, and a list may be left half-way."""

    async def page(request: web.Request) -> web.Response:
        following = {} if request.query.get("cursor") == "c2" else {"next_cursor": f"c{len(script.requests)}"}
        return web.json_response({"items": [ORDER.model_dump(mode="json")] * 2, **following})

    script = Script(page)
    with OrderClient(serve(script)) as orders:
        some = orders.list(page_size=2)
        assert next(some) == ORDER
        assert len(script.requests) == 1
        del some

        script.requests.clear()
        assert len(list(orders.list(page_size=2))) == 6


def test_a_list_keeps_its_client(serve: Serve) -> None:
    """``OrderClient().list()`` can be read to its end although nothing else refers to the client."""

    async def page(_: web.Request) -> web.Response:
        return web.json_response({"items": [ORDER.model_dump(mode="json")] * 2})

    assert list(OrderClient(serve(page)).list()) == [ORDER, ORDER]
    assert client_threads() == []


def test_the_callers_context_travels_through_the_thread(serve: Serve) -> None:
    """Request id and deadline are those of the calling thread."""
    script = Script(reply)
    with OrderClient(serve(script)) as orders:
        token = context.request_id.set("script-1")
        try:
            place(orders)
        finally:
            context.request_id.reset(token)

    assert script.header("X-Request-ID") == ["script-1"]


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "vv-client"]


def test_a_closed_blocking_client_leaves_nothing_behind(serve: Serve) -> None:
    """close() ends the thread, may be called twice, and later calls say that the client is closed."""
    orders = OrderClient(serve(reply))
    assert client_threads() == []
    place(orders)
    assert len(client_threads()) == 1

    orders.close()
    orders.close()

    assert client_threads() == []
    with pytest.raises(RuntimeError, match="closed"):
        place(orders)


def test_a_forgotten_blocking_client_closes_itself(serve: Serve) -> None:
    """A script that never calls close() loses neither sockets nor threads with the client."""
    orders = OrderClient(serve(refuse))
    with pytest.raises(OutOfStock):
        place(orders)

    del orders

    assert client_threads() == []


def test_closing_cuts_off_calls_of_other_threads(serve: Serve) -> None:
    """A thread that waits for a reply is not left waiting: it gets an error that says "unknown"."""
    asked = threading.Event()

    async def ask_and_wait(request: web.Request) -> web.StreamResponse:
        asked.set()
        return await say_nothing(request)

    orders = OrderClient(serve(ask_and_wait))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(place, orders)
        assert asked.wait(5)
        orders.close()

        with pytest.raises(ServiceUnavailable, match="closed"):
            waiting.result(5)


def test_an_interrupt_cancels_the_call(serve: Serve) -> None:
    """Ctrl-C reaches the waiting script at once, and the request does not go on in the background."""
    cancelled = threading.Event()
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    async def interrupt(request: web.Request) -> web.StreamResponse:
        # By then the script waits for the answer.
        await asyncio.sleep(0.2)
        signal.pthread_kill(main_thread, signal.SIGINT)
        try:
            return await say_nothing(request)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with OrderClient(serve(interrupt)) as orders:
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            place(orders)

        assert time.monotonic() - started < 2
        assert cancelled.wait(5)


# Python 3.12 and later warn of forking with threads, which is what this is about.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_client_used_before_a_fork_says_so_in_the_child(serve: Serve) -> None:
    """Threads do not survive a fork: the child gets an error at once instead of waiting for ever."""
    orders = OrderClient(serve(reply))
    place(orders)

    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        status = 1
        with suppress(BaseException):
            try:
                place(orders)
            except RuntimeError as error:
                status = 0 if "fork" in str(error) else 2
        os._exit(status)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    orders.close()
