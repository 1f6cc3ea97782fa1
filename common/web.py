"""The web kit: a route table becomes an aiohttp application with health, metrics, OpenAPI and one error format."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from aiohttp import hdrs, web
from pydantic import BaseModel, ValidationError

from common import context, errors, middleware, openapi
from common.contracts.access import ANYBODY
from common.errors import ServiceError, invalid_field, invalid_request
from common.guard import Guard
from common.load_shedding import LoadShedder
from common.routes import BATCH_BODY_BYTES_MAX, Call, Route
from common.security import Security
from common.telemetry import METRICS_CONTENT_TYPE, Metrics, bind_caller

# Enough for a megabyte over a poor line.
BODY_WITHIN_S = 8.0
_CONTENT_TYPE_CHARACTERS_MAX = 200

Readiness = Callable[[], Awaitable[str | None]]
LOAD_SHEDDER = web.AppKey("load_shedder", LoadShedder)
DRAINING = web.AppKey("draining", asyncio.Event)
METRICS = web.AppKey("metrics", Metrics)
SECURITY = web.AppKey("security", Security)


def make_web_app(
    *,
    title: str,
    routes: Sequence[Route],
    metrics: Metrics,
    why_not_ready: Readiness,
    lifespan: Callable[[], AbstractAsyncContextManager[None]],
    requests_in_flight_max: int,
    security: Security,
) -> web.Application:
    """Build the application of a service.

    ``why_not_ready`` answers ``/readyz``: ``None`` when the service can work, else a sentence. ``lifespan``
    opens on start what the use cases need, and closes it after the last request. ``security`` says who may call.
    """
    draining = asyncio.Event()
    paths = {route.path for route in routes}
    shedder = LoadShedder(requests_in_flight_max, metrics, open_to_all=middleware.UNLOGGED, known=paths)
    app = web.Application(
        middlewares=[
            middleware.observe(metrics, draining),
            middleware.answer_errors,
        ],
        client_max_size=BATCH_BODY_BYTES_MAX,
    )
    app[DRAINING] = draining
    app[LOAD_SHEDDER] = shedder
    app[METRICS] = metrics
    app[SECURITY] = security
    for route in routes:
        app.router.add_route(route.method, route.path, _as_aiohttp_handler(route, shedder, security.guard, metrics))
    _add_health(app, why_not_ready)
    openapi.add_docs(app, openapi.document(title, routes, is_guarded=security.guard is not None))

    async def run_lifespan(_: web.Application) -> AsyncIterator[None]:
        async with security.working(), lifespan():
            yield

    app.cleanup_ctx.append(run_lifespan)
    return app


def _as_aiohttp_handler(
    route: Route, shedder: LoadShedder, guard: Guard | None, metrics: Metrics
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        if shedder.is_full:
            raise shedder.refusal()
        if context.seconds_left(1) == 0:
            raise errors.DeadlineExceeded("The deadline had passed when the request arrived.")
        caller = ANYBODY
        if guard is not None:
            try:
                caller = await guard.admit(request, route.access)
            except (errors.Unauthenticated, errors.Forbidden) as error:
                metrics.refusals.labels(error.reason).inc()
                raise
            bind_caller(caller.name)
        body = await _parse_body(request, route) if route.body else None
        query = _parse_query(request, route)
        headers = _validate(route.headers, _known_headers(route.headers, request)) if route.headers else None
        with shedder.admitted():
            reply = await route.handler(Call(body, query, headers, caller))
        if isinstance(reply.body, ServiceError):
            return middleware.problem_response(reply.body, reply.headers)
        return web.Response(
            status=reply.status,
            body=reply.body.model_dump_json().encode(),
            content_type="application/json",
            headers=reply.headers,
        )

    return handle


async def _parse_body(request: web.Request, route: Route) -> BaseModel:
    assert route.body is not None
    if not _is_json(request):
        raise errors.UnsupportedMediaType(
            "The Content-Type header must be application/json, in UTF-8; "
            f"it is {request.headers.get(hdrs.CONTENT_TYPE, 'missing')[:100]!r}."
        )
    if (request.content_length or 0) > route.body_bytes_max:
        raise _too_large(route)
    try:
        # Mostly it is here already. Who never finishes must not hold one of the places for running requests.
        async with asyncio.timeout(None if request.content.is_eof() else BODY_WITHIN_S):
            raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(route) from None
    except TimeoutError:
        raise errors.MalformedHttp(f"The body was not complete after {BODY_WITHIN_S:g} seconds.") from None
    except (web.RequestPayloadError, ConnectionError):
        raise errors.MalformedHttp("The body broke off, or is not what its Content-Encoding says.") from None
    if len(raw) > route.body_bytes_max:
        raise _too_large(route)
    try:
        body = route.body.model_validate_json(raw)
    except ValidationError as error:
        raise invalid_request(error) from None
    _NAMES.decode(raw.decode())
    return body


def _is_json(request: web.Request) -> bool:
    # Python's parser of this header takes most of a second for some that are as long as a header may be.
    if len(request.headers.get(hdrs.CONTENT_TYPE, "")) > _CONTENT_TYPE_CHARACTERS_MAX:
        return False
    return request.content_type == "application/json" and (request.charset or "utf-8").lower() in ("utf-8", "utf8")


def _refuse_repeated_names(members: list[tuple[str, Any]]) -> None:
    """Of two members with one name pydantic takes the last, other parsers the first: nobody knows what was meant."""
    names = [name for name, _ in members]
    if len(set(names)) < len(names):
        raise invalid_field(next(name for name in names if names.count(name) > 1), "May be given only once.")


# Made once: json.loads with a hook makes a new decoder for each body.
_NAMES = json.JSONDecoder(object_pairs_hook=_refuse_repeated_names)


def _too_large(route: Route) -> errors.PayloadTooLarge:
    return errors.PayloadTooLarge(f"The body may have at most {route.body_bytes_max} bytes.")


def _parse_query(request: web.Request, route: Route) -> BaseModel | None:
    for name in request.query:
        if route.query is None or name not in route.query.model_fields or name in request.match_info:
            raise invalid_field(name[:64], "There is no such query parameter.")
        if len(request.query.getall(name)) > 1:
            raise invalid_field(name, "May be given only once.")
    if route.query is None:
        return None
    return _validate(route.query, {**request.query, **request.match_info})


def _known_headers(model: type[BaseModel], request: web.Request) -> dict[str, str]:
    known: dict[str, str] = {}
    for name, info in model.model_fields.items():
        header = info.alias or name
        values = request.headers.getall(header, [])
        if len(values) > 1:
            raise invalid_field(header, "May be given only once.")
        if values:
            known[header] = values[0]
    return known


def _validate(model: type[BaseModel], texts: dict[str, str]) -> BaseModel:
    try:
        return model.model_validate_strings(texts)
    except ValidationError as error:
        raise invalid_request(error) from None


def _add_health(app: web.Application, why_not_ready: Readiness) -> None:
    async def livez(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(request: web.Request) -> web.Response:
        security = request.app[SECURITY]
        draining = "The service is shutting down." if request.app[DRAINING].is_set() else None
        reason = draining or security.why_not_ready() or await why_not_ready()
        if reason is not None:
            raise errors.ServiceUnavailable(reason, retry_after_s=1)
        return web.json_response({"status": "ready"})

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=request.app[METRICS].exposition(), headers={hdrs.CONTENT_TYPE: METRICS_CONTENT_TYPE})

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/health", readyz)
    app.router.add_get("/metrics", metrics)
