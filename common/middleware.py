"""What happens around every request: its id, its log line and metrics, its errors."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from functools import cache
from http import HTTPStatus

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from prometheus_client import Counter, Histogram
from uuid_utils import uuid7

from common import context, errors, tracing
from common.telemetry import Metrics, log

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FROM_AIOHTTP = {404: errors.RouteNotFound, 405: errors.MethodNotAllowed, 413: errors.PayloadTooLarge}
# Asked for every few seconds by probes and scrapers; a line for each would bury the rest.
UNLOGGED = {"/livez", "/readyz", "/health", "/metrics"}
# Which versions answer is nobody's business.
_SERVER = "vv-ecommerce"
# Up to eleven days; what is longer is no deadline.
_MILLISECONDS = re.compile(r"[0-9]{1,9}")


def observe(metrics: Metrics, draining: asyncio.Event) -> Middleware:
    """Give the request its id, deadline and trace; write one log line and the metrics when it is answered.

    While the service drains, each reply tells its caller to send the next request elsewhere.
    """

    @cache
    def series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        return metrics.requests.labels(method, route, str(status)), metrics.latency.labels(method, route)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        request_id = _take_context(request)
        structlog.contextvars.clear_contextvars()
        route = _route_template(request)
        method = request.method if request.method in hdrs.METH_ALL else "OTHER"
        if route in UNLOGGED or not tracing.is_on():
            return await answer(request, handler, started, request_id, method, route)
        about = {"http.request.method": method, "http.route": route, "vv.request_id": request_id}
        with tracing.request_span(f"{method} {route}", about) as span:
            response = await answer(request, handler, started, request_id, method, route)
            span.set("http.response.status_code", response.status)
            if response.status >= 500:
                span.failed(str(response.status))
            return response

    async def answer(
        request: web.Request, handler: Handler, started: float, request_id: str, method: str, route: str
    ) -> web.StreamResponse:
        with metrics.in_flight.track_inprogress():
            response = await handler(request)
        seconds = time.perf_counter() - started
        count, latency = series(method, route, response.status)
        count.inc()
        latency.observe(seconds)
        response.headers[context.REQUEST_ID_HEADER] = request_id
        response.headers[hdrs.SERVER] = _SERVER
        if draining.is_set():
            response.force_close()
        if route not in UNLOGGED:
            log.info(
                "request",
                method=method,
                route=route,
                status=response.status,
                ms=round(seconds * 1000, 2),
            )
        return response

    return middleware


def _take_context(request: web.Request) -> str:
    offered = request.headers.get(context.REQUEST_ID_HEADER, "")
    request_id = offered if context.is_request_id(offered) else str(uuid7())
    context.request_id.set(request_id)
    trace = request.headers.get(context.TRACE_HEADER, "")
    context.trace_context.set(trace if context.is_trace_context(trace) else None)
    milliseconds = request.headers.get(context.DEADLINE_HEADER, "")
    context.set_deadline(int(milliseconds) / 1000 if _MILLISECONDS.fullmatch(milliseconds) else None)
    return request_id


def _route_template(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem document; nothing of an unexpected one leaves the process but its id."""
    try:
        return await handler(request)
    except errors.ServiceError as error:
        return problem_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        error_class = _FROM_AIOHTTP.get(error.status) or errors.general_error(error.status)
        allow = {str(hdrs.ALLOW): error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else {}
        return problem_response(error_class(f"{request.method} {request.path[:100]}: {error_class.title()}."), allow)
    except Exception:
        log.exception("internal_error", method=request.method, route=_route_template(request))
        return problem_response(errors.InternalError())


def problem_response(error: errors.ServiceError, headers: dict[str, str] | None = None) -> web.Response:
    headers = dict(headers or {})
    if error.retry_after_s is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, round(error.retry_after_s)))
    if error.challenge is not None:
        headers[hdrs.WWW_AUTHENTICATE] = error.challenge
    return web.Response(
        status=error.status,
        reason=HTTPStatus(error.status).phrase,
        body=json.dumps(error.to_problem(context.request_id.get())).encode(),
        headers={hdrs.CONTENT_TYPE: errors.PROBLEM_CONTENT_TYPE, **headers},
    )


def malformed_http(message: str | None) -> web.Response:
    """The reply to bytes that are not HTTP, or exceed the limits on the request line and headers."""
    request_id = str(uuid7())
    context.request_id.set(request_id)
    # After a colon aiohttp repeats what it has read: the beginning of a token, if it was too long for a header.
    error = errors.MalformedHttp((message or "").split(":")[0][:200] or None)
    log.info("malformed_http", detail=error.detail)
    return problem_response(error, {context.REQUEST_ID_HEADER: request_id, str(hdrs.SERVER): _SERVER})
