"""What somebody sends costs no more time than it has bytes: one request must not stop all others."""

import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from common.contracts.access import Scope, users
from common.contracts.orders import CreateOrder, Order
from common.load_shedding import LoadShedder, is_whole
from common.routes import Call, Reply, Route
from common.security import Security
from common.telemetry import Metrics
from common.web import make_web_app


@pytest.mark.parametrize("header", ["Content-Length: 0", "X-Request-ID: a", "Connection: keep-alive"])
@pytest.mark.parametrize("filling", [" ", "\t", "\r\n", ":", "0", f"\r\n{' ' * 100}", "\r\nContent-Length: 0"])
async def test_the_look_at_the_bytes_of_a_request(header: str, filling: str) -> None:
    """Also a chunk that is much longer than a head may be: it is looked at before anything is known of it."""
    data = f"POST / HTTP/1.1\r\nHost: x\r\n{header}{(filling * 200_000)[:200_000]}x\r\n\r\n".encode()
    full = LoadShedder(0, Metrics("test"), open_to_all=(), known=())
    began = time.process_time()
    is_whole(data)
    full.refuse(data)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("filling", [";", " a;", " a=b;", "a=;", " a*=b;", '"', "\\", " a*0=b;", "(", "=?utf-8?q?a?="])
async def test_a_content_type(filling: str) -> None:
    """As long as a header may be."""
    value = f"application/json;{(filling * 8_000)[:8_000]}"
    async with _orders_app() as client:
        # A collection would take as long as what is looked for.
        gc.collect()
        gc.disable()
        began = time.process_time()
        try:
            async with client.post("/orders", data=b"{}", headers={"Content-Type": value}) as answer:
                assert answer.status == 415
            assert time.process_time() - began < 0.1
        finally:
            gc.enable()


@asynccontextmanager
async def _orders_app() -> AsyncIterator[TestClient[web.Request, web.Application]]:
    async def place(call: Call[CreateOrder, None, None]) -> Reply:
        raise AssertionError(f"{call} should have been refused.")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield

    async def why_not_ready() -> None:
        return None

    app = make_web_app(
        title="orders",
        routes=[
            Route(
                *("POST", "/orders", place, "Place an order"),
                access=users(Scope.ORDERS_WRITE),
                body=CreateOrder,
                replies={201: Order},
            )
        ],
        metrics=Metrics("test"),
        why_not_ready=why_not_ready,
        lifespan=lifespan,
        requests_in_flight_max=10,
        security=Security(),
    )
    async with TestClient(TestServer(app)) as client:
        yield client
