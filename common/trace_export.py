"""Spans on their way to a collector: OTLP over HTTP, https://opentelemetry.io/docs/specs/otlp/#otlphttp.

Nobody waits for it: what the collector does not take in time is thrown away, and the log says how much.
"""

import asyncio
import contextlib
import os
import random
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Self

import aiohttp
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2 as otlp

from common.telemetry import log

if TYPE_CHECKING:
    from common.tracing import Kind, Span, Value

_SEND_EVERY_S = 1.0
_PAUSE_MAX_S = 30.0
_TIMEOUT_S = 5.0
_FLUSH_WITHIN_S = 2.0
# More than a second of the fastest shop that we have measured, all of it traced; some 10 MB.
_WAITING_MAX = 10_000
# The event loop makes them into messages at one go: some 2 ms, 5 on a busy machine.
_AT_ONCE_MAX = 200
_REPLY_MAX_BYTES = 65_536
# "Retryable Response Codes" of the specification; others would be the same again.
_LATER = {429, 502, 503, 504}
_HEADERS = {"Content-Type": "application/x-protobuf"}
_KINDS: "Mapping[Kind, otlp.Span.SpanKind.ValueType]" = {
    "INTERNAL": otlp.Span.SPAN_KIND_INTERNAL,
    "SERVER": otlp.Span.SPAN_KIND_SERVER,
    "CLIENT": otlp.Span.SPAN_KIND_CLIENT,
}


class NotNow(Exception):
    """The collector may take the same spans later."""


class Refused(Exception):
    """The collector will never take them, or not so many of them (0: none)."""

    def __init__(self, why: str, spans: int = 0) -> None:
        super().__init__(why)
        self.spans = spans


class Exporter:
    """Keeps spans that have ended until the collector has them; as a context it sends them.

    :param service: its name, ``order``
    :param endpoint: base URL of the collector, to which ``/v1/traces`` is added
    """

    def __init__(self, service: str, endpoint: str) -> None:
        self._url = f"{endpoint.rstrip('/')}/v1/traces"
        self._waiting: deque[Span] = deque()
        self._lost = 0
        self._refused_because: str | None = None
        self._ending = asyncio.Event()
        self._resource = Resource(
            attributes=[
                _attribute("service.name", service),
                _attribute("service.version", version("vv-ecommerce")),
                _attribute("host.name", socket.gethostname()),
                _attribute("process.pid", os.getpid()),
            ]
        )
        self._scope = InstrumentationScope(name="vv-ecommerce")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        self._sending = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending.set()
        await asyncio.wait([self._sending], timeout=_FLUSH_WITHIN_S)
        self._sending.cancel()
        await self._session.close()
        if lost := self._lost + len(self._waiting):
            log.warning("traces_lost", url=self._url, spans=lost)

    def add(self, span: "Span") -> None:
        """Take a span that has ended, unless too many wait."""
        if len(self._waiting) < _WAITING_MAX:
            # Made into a message later on, with others: one by one, between other work, that takes three times as long.
            self._waiting.append(span)
        else:
            self._lost += 1

    async def _run(self) -> None:
        pause_s = _SEND_EVERY_S
        is_heard, is_last = True, False
        while not is_last:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    is_last = await self._ending.wait()
            is_heard = await self._send_all(is_heard)
            # Not all services again at the same time, when a collector comes back.
            pause_s = _SEND_EVERY_S if is_heard else min(pause_s * random.uniform(1, 3), _PAUSE_MAX_S)

    async def _send_all(self, was_heard: bool) -> bool:
        """Whether nothing is left that the collector would take later. That it would not is told once."""
        while self._waiting:
            spans = list(islice(self._waiting, _AT_ONCE_MAX))
            try:
                await self._send(spans)
            except NotNow as error:
                if was_heard:
                    log.warning("traces_not_sent", url=self._url, problem=str(error))
                return False
            except Refused as error:
                self._tell_refused(str(error), error.spans or len(spans))
            except Exception:
                # These are given up, and not all that come after them.
                log.exception("internal_error")
            for _ in spans:
                self._waiting.popleft()
            if not was_heard:
                log.info("traces_sent_again", url=self._url, spans_lost=self._lost)
                self._lost, was_heard = 0, True
        return True

    async def _send(self, spans: "Sequence[Span]") -> None:
        scoped = otlp.ScopeSpans(scope=self._scope, spans=map(_encoded, spans))
        request = ExportTraceServiceRequest(
            resource_spans=[otlp.ResourceSpans(resource=self._resource, scope_spans=[scoped])]
        )
        try:
            async with self._session.post(
                self._url, data=request.SerializeToString(), headers=_HEADERS, allow_redirects=False
            ) as reply:
                body = await reply.content.read(_REPLY_MAX_BYTES)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotNow(str(error) or type(error).__name__) from error
        if reply.status in _LATER:
            raise NotNow(f"It answered {reply.status}.")
        if reply.status >= 300:
            raise Refused(f"It answered {reply.status}.")
        # What is no protobuf comes from something that has no use for spans, and took them.
        with contextlib.suppress(DecodeError):
            partial = ExportTraceServiceResponse.FromString(body).partial_success
            if partial.rejected_spans:
                raise Refused(partial.error_message, partial.rejected_spans)

    def _tell_refused(self, why: str, spans: int) -> None:
        """Once for each reason: a wrong address refuses every second."""
        if why != self._refused_because:
            log.warning("traces_refused", url=self._url, problem=why, spans=spans)
        self._refused_because = why


def _encoded(span: "Span") -> otlp.Span:
    trace_id, span_id = _ids(span.traceparent)
    return otlp.Span(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=_ids(span.parent)[1] if span.parent is not None else b"",
        flags=1,
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=span.began_at_ns,
        end_time_unix_nano=span.began_at_ns + span.took_ns,
        attributes=[_attribute(name, value) for name, value in span.attributes.items()],
        links=[otlp.Span.Link(trace_id=trace, span_id=other, flags=1) for trace, other in map(_ids, span.links)],
        status=otlp.Status(code=otlp.Status.STATUS_CODE_ERROR) if span.has_failed else None,
    )


def _ids(traceparent: str) -> tuple[bytes, bytes]:
    return bytes.fromhex(traceparent[3:35]), bytes.fromhex(traceparent[36:52])


def _attribute(name: str, value: "Value") -> KeyValue:
    match value:
        case bool():
            return KeyValue(key=name, value=AnyValue(bool_value=value))
        case int():
            return KeyValue(key=name, value=AnyValue(int_value=value))
        case float():
            return KeyValue(key=name, value=AnyValue(double_value=value))
        case _:
            return KeyValue(key=name, value=AnyValue(string_value=value))
