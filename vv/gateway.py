"""A payment gateway for tests and demonstrations: a process of its own whose ledger is the ground truth.

The payment method decides the outcome, as in the sandbox; its ``Behaviour`` can be changed while it runs.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from aiohttp import web
from pydantic import Field

from common.contracts.access import Service, services
from common.contracts.base import Request, View
from common.contracts.payments import RefundExceedsCharge
from common.errors import IdempotencyMismatch, InternalError, ServiceUnavailable
from common.routes import Call, Reply, Route
from common.security import Security
from common.telemetry import Metrics
from common.web import make_web_app
from payment_service.gateway_wire import (
    Charge,
    ChargeNotFound,
    ChargeQuery,
    CreateCharge,
    CreateRefund,
    KeyHeader,
    Refund,
)
from payment_service.sandbox import APPROVED, DECLINED
from vv.gateway_book import Book
from vv.gateway_ledger import Entry, Ledger

_PAGE_MAX = 10_000
# A slow gateway is one that has many requests at once; what it refuses is up to its behaviour.
_REQUESTS_IN_FLIGHT_MAX = 20_000

Seconds = Annotated[float, Field(ge=0, le=3_600)]
Share = Annotated[float, Field(ge=0, le=1)]


class Behaviour(Request):
    """How the gateway treats those who charge, refund, cancel or ask; what is left out stays as it is."""

    latency_s: Seconds = Field(0.0, description="seconds before it does anything")
    slow_s: Seconds = Field(3.0, description="seconds that it takes longer to charge `tok_slow`")
    decline_share: Share = Field(0.0, description="share of the charges that it declines whatever the method")
    error_after_charging: Share = Field(0.0, description="share of the charges, refunds and cancels answered with 500")
    unavailable: bool = Field(False, description="whether it answers 503 and does nothing")


class LedgerQuery(Request):
    after: int = Field(0, ge=0, description="the number of the last entry that is not wanted")
    limit: int = Field(1_000, ge=1, le=_PAGE_MAX, description="entries on a page at the most")


class LedgerPage(View):
    """``next`` is what to give as ``after`` for the next page, or null when there is none yet."""

    entries: list[Entry]
    next: int | None


class ReplyLost(Exception):
    """The connection breaks, and the caller never hears what became of it."""


class Gateway:
    """The handlers of the route table below."""

    def __init__(self, ledger: Ledger, behaviour: Behaviour) -> None:
        self._ledger = ledger
        self._book = Book(ledger)
        self._behaviour = behaviour

    async def charge(self, call: Call[CreateCharge, None, KeyHeader]) -> Reply:
        key, wanted = call.headers.idempotency_key, call.body
        await self._take_time(self._behaviour.slow_s if wanted.payment_method == "tok_slow" else 0)
        if wanted.payment_method == "tok_error":
            raise InternalError("The gateway failed before it charged anything, as tok_error asks.")
        earlier = self._book.earlier_charge(key, wanted)
        entry = earlier or self._book.charge(key, wanted, self._why_declined(wanted.payment_method))
        await self._ledger.written(entry)
        if earlier is None and wanted.payment_method == "tok_timeout":
            raise ReplyLost
        return self._reply(entry, Charge(id=entry.id, status=entry.status, reason=entry.reason), earlier is None)

    async def find(self, call: Call[None, ChargeQuery, None]) -> Reply:
        await self._take_time()
        entry = self._book.find(call.query.key)
        await self._ledger.written(entry)
        return Reply(200, Charge(id=entry.id, status=entry.status, reason=entry.reason))

    async def cancel(self, call: Call[None, ChargeQuery, None]) -> Reply:
        await self._take_time()
        entry, is_new = self._book.cancel(call.query.key)
        await self._ledger.written(entry)
        return self._reply(entry, Charge(id=entry.id, status=entry.status, reason=entry.reason), is_new)

    async def refund(self, call: Call[CreateRefund, None, KeyHeader]) -> Reply:
        await self._take_time()
        entry, is_new = self._book.refund(call.headers.idempotency_key, call.body)
        await self._ledger.written(entry)
        return self._reply(entry, Refund(id=entry.id, status=entry.status), is_new)

    async def ledger(self, call: Call[None, LedgerQuery, None]) -> Reply:
        entries = self._ledger.page(call.query.after, call.query.limit)
        more = entries and entries[-1].n < self._ledger.on_disk
        return Reply(200, LedgerPage(entries=entries, next=entries[-1].n if more else None))

    async def get_behaviour(self, call: Call[None, None, None]) -> Reply:
        return Reply(200, self._behaviour)

    async def put_behaviour(self, call: Call[Behaviour, None, None]) -> Reply:
        self._behaviour = self._behaviour.model_copy(update=call.body.model_dump(exclude_unset=True))
        return Reply(200, self._behaviour)

    async def _take_time(self, longer_s: float = 0) -> None:
        if self._behaviour.unavailable:
            raise ServiceUnavailable("The gateway is unavailable, as its behaviour asks.")
        if self._behaviour.latency_s + longer_s:
            await asyncio.sleep(self._behaviour.latency_s + longer_s)

    def _why_declined(self, payment_method: str) -> str | None:
        if payment_method not in APPROVED:
            return DECLINED.get(payment_method, "unknown_card")
        return "card_declined" if random.random() < self._behaviour.decline_share else None

    def _reply(self, entry: Entry, body: View, is_new: bool) -> Reply:
        if random.random() < self._behaviour.error_after_charging:
            raise InternalError(f"The gateway failed after it had written {entry.id}, as its behaviour asks.")
        return Reply(201 if is_new else 200, body)


def routes(gateway: Gateway) -> list[Route]:
    return [
        Route(
            "POST", "/charges", gateway.charge, "Charge, once a key",
            access=services(Service.PAYMENT),
            body=CreateCharge, headers=KeyHeader, replies={201: Charge, 200: Charge}, errors=[IdempotencyMismatch],
        ),
        Route(
            "GET", "/charges/{key}", gateway.find, "What became of a charge",
            access=services(Service.PAYMENT),
            query=ChargeQuery, replies={200: Charge}, errors=[ChargeNotFound],
        ),
        Route(
            "POST", "/charges/{key}/cancel", gateway.cancel, "See to it that nothing is charged with a key from now on",
            access=services(Service.PAYMENT),
            query=ChargeQuery, replies={201: Charge, 200: Charge}, errors=[IdempotencyMismatch],
        ),
        Route(
            "POST", "/refunds", gateway.refund, "Give back some of a charge, once a key",
            access=services(Service.PAYMENT),
            body=CreateRefund, headers=KeyHeader, replies={201: Refund, 200: Refund},
            errors=[ChargeNotFound, RefundExceedsCharge, IdempotencyMismatch],
        ),
        Route(
            "GET", "/ledger", gateway.ledger, "What was done",
            access=services(), query=LedgerQuery, replies={200: LedgerPage},
        ),
        Route(
            "GET", "/behaviour", gateway.get_behaviour, "How it behaves",
            access=services(), replies={200: Behaviour},
        ),
        Route(
            "PUT", "/behaviour", gateway.put_behaviour, "Have it behave otherwise, at once",
            access=services(),
            body=Behaviour, replies={200: Behaviour},
        ),
    ]  # fmt: skip


def make_app(ledger: Ledger, behaviour: Behaviour, security: Security) -> web.Application:
    async def why_not_ready() -> str | None:
        return None

    app = make_web_app(
        title="VV-Ecommerce payment gateway",
        routes=routes(Gateway(ledger, behaviour)),
        metrics=Metrics("gateway"),
        why_not_ready=why_not_ready,
        lifespan=_nothing_to_open,
        requests_in_flight_max=_REQUESTS_IN_FLIGHT_MAX,
        security=security,
    )
    app.middlewares.append(_lose_replies)
    return app


@contextlib.asynccontextmanager
async def _nothing_to_open() -> AsyncIterator[None]:
    yield


@web.middleware
async def _lose_replies(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ReplyLost:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
