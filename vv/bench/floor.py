"""``python -m vv.bench.floor PORT``: the floor, an aiohttp POST handler that does nothing but parse and reply.

It runs in the server kit of the services (same event loop, same collector settings, no access log), without their
middlewares, so that what it answers a second is what a process with a handler can answer at all.
"""

import asyncio
import sys
from typing import Any

from aiohttp import web

from common.server import run
from common.settings import ServiceSettings
from common.web import DRAINING

# As long as the reply to an order of one line.
_ORDER = {
    "order_id": "01a2042a-7bf1-7255-ad0b-a61e96c9d686",
    "status": "completed",
    "items": [{"sku": "HOT-0123456789", "quantity": 1}],
    "currency": "USD",
    "payment_method": "tok_ok",
    "reason": None,
    "created_at": "2026-11-22T16:50:22.833748Z",
    "updated_at": "2026-11-22T16:50:22.893748Z",
}


async def _order(request: web.Request) -> web.Response:
    body: dict[str, Any] = await request.json()
    return web.json_response(_ORDER | {"user_id": body["user_id"], "total_amount": body["total_amount"]}, status=201)


async def _traces(request: web.Request) -> web.Response:
    """As a collector that keeps nothing: an ExportTraceServiceResponse without fields is no bytes."""
    await request.read()
    return web.Response(content_type="application/x-protobuf")


async def _ready(_: web.Request) -> web.Response:
    loop = type(asyncio.get_running_loop())
    return web.json_response({"event_loop": f"{loop.__module__}.{loop.__qualname__}"})


def main() -> None:
    app = web.Application()
    app[DRAINING] = asyncio.Event()
    app.router.add_post("/orders", _order)
    app.router.add_post("/v1/traces", _traces)
    app.router.add_get("/readyz", _ready)
    # There is no environment to read: a port is all that it needs.
    run(
        app,
        ServiceSettings.model_construct(host="127.0.0.1", port=int(sys.argv[1]), drain_delay_s=0, drain_timeout_s=1),
    )


if __name__ == "__main__":
    main()
