"""What the three asynchronous clients share: one call, repeated within its deadline."""

import asyncio
import logging
import math
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from itertools import count
from types import TracebackType
from typing import ClassVar, Self, TypeVar

import aiohttp
from pydantic import BaseModel
from uuid_utils import uuid7
from yarl import URL

from common import context, tracing
from common.base_url import read_srv_url
from common.clients.breaker import CircuitBreaker
from common.clients.credentials import Credentials, fixed
from common.clients.discovered import open_transport
from common.clients.observer import Observer
from common.clients.replies import read_reply
from common.clients.retry import RetryBudget, RetryPolicy
from common.clients.transport import Request, was_sent
from common.contracts.base import Page, View
from common.errors import DeadlineExceeded, ServiceError, Unauthenticated

M = TypeVar("M", bound=BaseModel)
V = TypeVar("V", bound=View)
R = TypeVar("R")

log = logging.getLogger(__name__)

DEFAULT_RETRY = RetryPolicy()
_READY_TIMEOUT_S = 2.0


class AsyncClient:
    """A client of one service; tasks may share it. It belongs to the event loop of its first call.

    ``base_url`` may have a path prefix. With ``srv+`` it names a DNS SRV record (``srv+http://_inventory._tcp.shop.local``)
    and each attempt goes to one of the instances there; ``nameserver`` (``127.0.0.1:8600``) is asked for them in place
    of the system's. ``timeout_s`` is the deadline of a whole call: all its attempts and the waits between them.
    ``token`` proves who calls: an access token, or something that has one whenever it is asked, such as
    ClientCredentials. ``tls`` has the certificate of the caller and the CAs it trusts; without it the system decides
    about ``https``. A ``session`` of the caller's own is used as it is, and not closed. ``breaker`` is the circuit
    breaker, one a client unless given; it counts what one instance does wrong only when no other one is better.
    ``observer`` is told how each attempt ended.

    Use it with ``async with``, or call :meth:`close`. Every call raises the errors of ``common.errors``:
    InvalidRequest before anything is sent; the service's own refusals (``is_refusal``); and ServiceUnavailable or
    DeadlineExceeded once retries ran out, after which nobody knows whether the call took effect.
    """

    default_url: ClassVar[str]

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout_s: float = 30.0,
        retry: RetryPolicy = DEFAULT_RETRY,
        token: str | Credentials | None = None,
        tls: ssl.SSLContext | None = None,
        session: aiohttp.ClientSession | None = None,
        connections_max: int = 512,
        breaker: CircuitBreaker | None = None,
        observer: Observer | None = None,
        nameserver: str | None = None,
    ) -> None:
        if not 0 < timeout_s < math.inf:
            raise ValueError("timeout_s must be a positive number of seconds")
        self._base_url = _check_base_url(base_url or self.default_url)
        self._timeout_s = timeout_s
        # A caller in more of a hurry than this learns nothing about the health of the service from a timeout.
        self._fair_timeout_s = min(1.0, timeout_s / 2)
        self._retry = retry
        self._budget = RetryBudget(retry.budget_ratio, retry.budget_burst)
        self._breaker = breaker or CircuitBreaker()
        self._observer = observer
        self._credentials = fixed(token) if isinstance(token, str) else token
        self._transport = open_transport(self._base_url, session, connections_max, tls, nameserver)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Calls after this raise RuntimeError."""
        await self._transport.close()

    async def ready(self) -> bool:
        """Whether the service answers and says that it can work. One attempt of at most 2 seconds."""
        request = Request("GET", self._url("/readyz"), _context_headers())
        try:
            reply = await self._transport.request(request, min(self._timeout_s, _READY_TIMEOUT_S))
        except ServiceError:
            return False
        return reply.status == 200

    async def _call(
        self,
        method: str,
        path: str,
        contract: type[M],
        *,
        body: BaseModel | None = None,
        query: BaseModel | None = None,
        headers: Mapping[str, str] | None = None,
        is_idempotent: bool = True,
    ) -> M:
        """Send a request until it is answered or refused, or attempts, time or the retry budget run out.

        A call that is not idempotent is repeated only if it certainly did not reach the server.
        """
        with tracing.span(f"{method} {path}", "CLIENT"):
            return await self._repeat(method, path, contract, body, query, headers, is_idempotent)

    async def _repeat(
        self,
        method: str,
        path: str,
        contract: type[M],
        body: BaseModel | None,
        query: BaseModel | None,
        headers: Mapping[str, str] | None,
        is_idempotent: bool,
    ) -> M:
        deadline = time.monotonic() + context.seconds_left(self._timeout_s)
        all_headers = _context_headers()
        if headers is not None:
            all_headers.update(headers)
        data = None
        if body is not None:
            data = body.model_dump_json(exclude_none=True).encode()
            all_headers["Content-Type"] = "application/json"
        request = Request(method, self._url(path, query), all_headers, data)
        attempt_timeout_s = self._retry.attempt_timeout_s if is_idempotent else self._timeout_s
        failure: ServiceError | None = None
        self._budget.deposit()
        for attempt in count(1):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise failure or DeadlineExceeded(f"The deadline had passed before {request.name} was sent.")
            all_headers[context.DEADLINE_HEADER] = str(max(1, int(left_s * 1000)))
            try:
                return await self._attempt_as_caller(request, contract, deadline, attempt_timeout_s)
            except ServiceError as error:
                error.request_id = error.request_id or all_headers[context.REQUEST_ID_HEADER]
                wait_s = self._retry.wait_s(attempt, error.retry_after_s)
                if not (
                    error.retryable
                    and (is_idempotent or not was_sent(error))
                    and attempt < self._retry.attempts_max
                    and time.monotonic() + wait_s < deadline
                    and not self._breaker.is_open
                    and self._budget.withdraw()
                ):
                    raise
                failure = error
                log.debug("attempt %d failed, again in %.3f s: %s", attempt, wait_s, error.detail)
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def _items(self, path: str, contract: type[Page[V]], query: BaseModel) -> AsyncIterator[V]:
        """The items of every page from ``query`` on; a page is fetched when its first item is asked for."""
        while True:
            page = await self._call("GET", path, contract, query=query)
            for item in page.items:
                yield item
            if page.next_cursor is None:
                return
            query = query.model_copy(update={"cursor": page.next_cursor})

    async def _attempt_as_caller(self, request: Request, contract: type[M], deadline: float, at_most_s: float) -> M:
        """An attempt with a token, if there are any. If it is refused, and there is another one, a second attempt."""
        if self._credentials is None:
            return await self._attempt(request, contract, min(_left_s(deadline), at_most_s))
        token = await _in_time(self._credentials.token(), deadline)
        try:
            return await self._attempt(_with_token(request, token), contract, min(_left_s(deadline), at_most_s))
        except Unauthenticated:
            if not await _in_time(self._credentials.has_other(token), deadline):
                raise
        token = await _in_time(self._credentials.token(), deadline)
        return await self._attempt(_with_token(request, token), contract, min(_left_s(deadline), at_most_s))

    async def _attempt(self, request: Request, contract: type[M], timeout_s: float) -> M:
        if self._observer is None:
            return await self._attempt_unobserved(request, contract, timeout_s)
        started, was_open = time.monotonic(), self._breaker.is_open
        outcome = None
        try:
            result = await self._attempt_unobserved(request, contract, timeout_s)
            outcome = "ok"
        except ServiceError as error:
            outcome = error.code
            raise
        finally:
            if outcome is not None:
                self._observer.attempted(outcome, time.monotonic() - started)
            if self._breaker.is_open != was_open:
                self._observer.breaker(is_open=self._breaker.is_open)
        return result

    async def _attempt_unobserved(self, request: Request, contract: type[M], timeout_s: float) -> M:
        ticket = self._breaker.admit()
        try:
            reply = await self._transport.request(request, timeout_s)
            result = read_reply(request, reply, contract)
        except ServiceError as error:
            if error.status < 500:
                self._breaker.succeeded(ticket)
            elif self._transport.has_others or (
                isinstance(error, DeadlineExceeded) and timeout_s < self._fair_timeout_s
            ):
                self._breaker.abandoned(ticket)
            else:
                self._breaker.failed(ticket)
            raise
        except BaseException:
            self._breaker.abandoned(ticket)
            raise
        self._breaker.succeeded(ticket)
        return result

    def _url(self, path: str, query: BaseModel | None = None) -> URL:
        url = URL(self._base_url + path)
        if query is None:
            return url
        return url.with_query(query.model_dump(mode="json", exclude_none=True))


def _left_s(deadline: float) -> float:
    # To the transport none would mean that there is no end.
    return max(0.001, deadline - time.monotonic())


async def _in_time(awaitable: Awaitable[R], deadline: float) -> R:
    try:
        async with asyncio.timeout(_left_s(deadline)):
            return await awaitable
    except TimeoutError:
        raise DeadlineExceeded("The deadline had passed before there was a token.") from None


def _with_token(request: Request, token: str) -> Request:
    return request._replace(headers={**request.headers, "Authorization": f"Bearer {token}"})


def _context_headers() -> dict[str, str]:
    headers = {context.REQUEST_ID_HEADER: context.request_id.get() or str(uuid7())}
    trace = tracing.outgoing()
    if trace is not None:
        headers[context.TRACE_HEADER] = trace
    return headers


def _check_base_url(text: str) -> str:
    try:
        is_srv = read_srv_url(text) is not None
    except ValueError as error:
        raise ValueError(f"base_url {error}") from None
    url = URL(text)
    if is_srv:
        return text.rstrip("/")
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment:
        raise ValueError("base_url must look like http://host:port, optionally with a path")
    return text.rstrip("/")
