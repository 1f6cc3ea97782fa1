"""Traces with OpenTelemetry (the extra ``otel``), as far as an endpoint for them is configured; else nothing of it is
even imported.

The span that is going on is known by its W3C ``traceparent`` in :data:`common.context.trace_context`, from which
outgoing calls, new rows and log lines take it, with or without us. What is not sampled costs a look at that.
"""

import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from common import context

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

Kind = Literal["SERVER", "CLIENT", "INTERNAL"]
Attributes = Mapping[str, str | int | float | bool | Sequence[str]]

_FLUSH_WITHIN_MS = 2_000
_STATEMENT = re.compile(r"\s*([A-Z]+).*?(?:\b(?:FROM|INTO|UPDATE)\s+(\w+)|$)", re.DOTALL)


class Traced:
    """A span as those who are traced see it; one that is not recorded forgets what it is told."""

    def __init__(self, span: "Span | None" = None) -> None:
        self._span = span

    @property
    def is_recorded(self) -> bool:
        return self._span is not None

    def set(self, name: str, value: Any) -> None:
        if self._span is not None:
            self._span.set_attribute(name, value)


UNTRACED = Traced()
_NO_SPAN = nullcontext(UNTRACED)
_tracing: "Tracing | None" = None


def is_installed() -> bool:
    """Whether the extra ``otel`` is there."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def configure(service: str, endpoint: str, sample_ratio: float) -> None:
    """Record the given share of traces, and send them to a collector (OTLP over HTTP)."""
    global _tracing
    _tracing = Tracing(service, endpoint, sample_ratio)


def shut_down() -> None:
    """Send what has not been sent, for two seconds at the most."""
    global _tracing
    tracing, _tracing = _tracing, None
    if tracing is not None:
        tracing.shut_down()


def is_on() -> bool:
    return _tracing is not None


def request_span(name: str, attributes: Attributes) -> AbstractContextManager[Traced]:
    """The span of a request that comes in: it goes on with the caller's trace, or begins one."""
    if _tracing is None:
        return _NO_SPAN
    trace = context.trace_context.get()
    if trace is None:
        return _tracing.span(name, "SERVER", attributes) if _tracing.is_lucky() else _NO_SPAN
    return _tracing.span(name, "SERVER", attributes) if context.is_sampled(trace) else _NO_SPAN


def span(name: str, kind: Kind = "INTERNAL", attributes: Attributes | None = None) -> AbstractContextManager[Traced]:
    """A span within the one that is going on; without one, or when that is not sampled, nothing."""
    if _tracing is None or context.sampled_trace() is None:
        return _NO_SPAN
    return _tracing.span(name, kind, attributes or {})


def shared_span(
    name: str, traces: Iterable[str | None], attributes: Attributes, *, seen_by_all: bool = False
) -> AbstractContextManager[Traced]:
    """The span of work that is done for several requests at once, known by their traces.

    It belongs to the first trace that is sampled, and is linked to the others. With ``seen_by_all`` each of these has a
    span of the same time and name that is linked back: so one finds from a request to what was done for it.
    """
    if _tracing is None:
        return _NO_SPAN
    sampled = [trace for trace in dict.fromkeys(traces) if trace is not None and context.is_sampled(trace)]
    return _tracing.shared_span(name, sampled, attributes, seen_by_all) if sampled else _NO_SPAN


@lru_cache(maxsize=512)
def statement_name(sql: str) -> str:
    """What a statement does to which table, without any value: ``INSERT orders``."""
    found = _STATEMENT.match(sql)
    return " ".join(filter(None, found.groups())) if found else "statement"


class Tracing:
    """The OpenTelemetry SDK, set up; everybody else uses the functions above."""

    def __init__(self, service: str, endpoint: str, sample_ratio: float) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self._api = trace
        self._sample_ratio = sample_ratio
        # Whether a trace is recorded is decided before it costs anything.
        self._provider: TracerProvider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create({"service.name": service}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("vv-ecommerce")

    def shut_down(self) -> None:
        self._provider.force_flush(_FLUSH_WITHIN_MS)
        self._provider.shutdown()

    def is_lucky(self) -> bool:
        """Whether a trace that begins here is recorded."""
        return random.random() < self._sample_ratio

    @contextmanager
    def span(self, name: str, kind: Kind, attributes: Attributes, *, links: Sequence[str] = ()) -> Iterator[Traced]:
        parent = context.trace_context.get()
        began = self._start(name, parent, kind, attributes, links)
        token = context.trace_context.set(_traceparent(began.get_span_context()))
        try:
            yield Traced(began)
        except BaseException as error:
            self._failed(began, error)
            raise
        finally:
            context.trace_context.reset(token)
            began.end()

    @contextmanager
    def shared_span(
        self, name: str, traces: Sequence[str], attributes: Attributes, seen_by_all: bool
    ) -> Iterator[Traced]:
        began_at = time.time_ns()
        own = context.trace_context.get()
        if own is not None and context.is_sampled(own):
            traces = [own, *(trace for trace in traces if not context.is_same_trace(own, trace))]
        first, *others = traces
        token = context.trace_context.set(first)
        try:
            with self.span(name, "INTERNAL", attributes, links=others) as shared:
                here = context.trace_context.get() or first
                yield shared
        finally:
            context.trace_context.reset(token)
            for trace in others if seen_by_all else ():
                self._start(name, trace, "INTERNAL", attributes, [here], began_at).end()

    def _start(
        self,
        name: str,
        parent: str | None,
        kind: Kind,
        attributes: Attributes,
        links: Sequence[str] = (),
        at: int | None = None,
    ) -> "Span":
        inside = self._api.set_span_in_context(self._api.NonRecordingSpan(self._read(parent))) if parent else None
        return self._tracer.start_span(
            name,
            inside,
            self._api.SpanKind[kind],
            attributes,
            [self._api.Link(self._read(link)) for link in links],
            at,
        )

    def _read(self, traceparent: str) -> "SpanContext":
        _, trace_id, span_id, flags = traceparent.split("-")
        return self._api.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=self._api.TraceFlags(int(flags, 16))
        )

    def _failed(self, span: "Span", error: BaseException) -> None:
        """By its kind only: a message may hold values."""
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(self._api.StatusCode.ERROR)


def _traceparent(span: "SpanContext") -> str:
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags) & 1:02x}"
