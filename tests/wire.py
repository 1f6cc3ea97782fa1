"""What the tests of the client library send and expect, and a server that hangs up: all without services."""

from datetime import UTC, datetime

from aiohttp import web

from common.clients import Order, OrderStatus, RetryPolicy

QUICK = RetryPolicy(attempts_max=3, backoff_base_s=0.001, backoff_max_s=0.001)
ORDER_ID = "0192f0c1-2345-7abc-8def-0123456789ab"


def order(status: OrderStatus = OrderStatus.COMPLETED) -> Order:
    moment = datetime(2026, 11, 22, tzinfo=UTC)
    return Order(
        order_id=ORDER_ID,
        user_id="ada",
        status=status,
        items=[],
        total_amount=1999,
        currency="USD",
        payment_method="tok_ok",
        reason=None,
        created_at=moment,
        updated_at=moment,
    )


async def hang_up(request: web.Request) -> web.Response:
    """As a server that dies in the middle of a request: the connection is reset."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
