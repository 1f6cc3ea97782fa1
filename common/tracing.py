"""Traces with OpenTelemetry (the extra ``otel``), as far as an endpoint for them is configured; else nothing of it is
even imported.

The span that is going on is known by its W3C ``traceparent`` in :data:`common.context.trace_context`, from which
outgoing calls, new rows and log lines take it, with or without us. What is not sampled costs a look at that.
"""

import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextvars import Token
from functools import lru_cache
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from common import context

if TYPE_CHECKING:
    from common.trace_export import Exporter

Kind = Literal["INTERNAL", "SERVER", "CLIENT"]
Value = str | int | float | bool
Attributes = Mapping[str, Value]

_STATEMENT = re.compile(r"\s*(?:(UPDATE)\s+(\w+)|([A-Z]+)(?:\s.*?\b(?:FROM|INTO)\s+(\w+))?)", re.DOTALL)


class Traced:
    """A span as those who are traced see it, and the time of it as a context; this one is not recorded."""

    __slots__ = ()
    is_recorded = False

    def set(self, name: str, value: Value) -> None:
        """Add an attribute."""

    def failed(self, why: str) -> None:
        """Mark the span as an error of that kind; not of that message, which may hold values."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        pass


UNTRACED = Traced()


class Span(Traced):
    """One that is recorded. Times are nanoseconds, and a span is known by its W3C ``traceparent``.

    Not the SDK's, which cost a sixth of all orders when one in ten was traced (docs/decisions.md).
    """

    __slots__ = (
        "_recorder",
        "_token",
        "attributes",
        "began_at_ns",
        "has_failed",
        "kind",
        "links",
        "name",
        "parent",
        "took_ns",
        "traceparent",
    )
    is_recorded = True

    def __init__(
        self,
        recorder: "Recorder",
        name: str,
        kind: Kind,
        parent: str | None,
        attributes: Attributes,
        links: Sequence[str] = (),
    ) -> None:
        self._recorder = recorder
        self.name = name
        self.kind = kind
        self.parent = parent
        self.attributes: dict[str, Value] = dict(attributes)
        self.links = list(links)
        self.has_failed = False
        self.traceparent = _new_traceparent(parent, is_sampled=True)
        self._token: Token[str | None] | None = None
        self.began_at_ns = 0
        self.took_ns = 0

    def set(self, name: str, value: Value) -> None:
        self.attributes[name] = value

    def failed(self, why: str) -> None:
        self.attributes["error.type"] = why
        self.has_failed = True

    def __enter__(self) -> Self:
        self._token = context.trace_context.set(self.traceparent)
        self._recorder.going_on[self.traceparent] = self
        self.began_at_ns = time.time_ns()
        self.took_ns = -time.perf_counter_ns()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self.took_ns += time.perf_counter_ns()
        assert self._token is not None
        context.trace_context.reset(self._token)
        if error is not None:
            self.failed(type(error).__name__)
        del self._recorder.going_on[self.traceparent]
        self._recorder.exporter.add(self)


class Recorder:
    """What is there while traces are recorded."""

    def __init__(self, exporter: "Exporter", sample_ratio: float) -> None:
        self.exporter = exporter
        self.sample_ratio = sample_ratio
        # By their traceparent.
        self.going_on: dict[str, Span] = {}


_recorder: Recorder | None = None


def is_installed() -> bool:
    """Whether the extra ``otel`` is there."""
    try:
        return find_spec("opentelemetry.proto") is not None
    except ModuleNotFoundError:
        return False


def recording(service: str, endpoint: str, sample_ratio: float) -> Callable[[object], AsyncIterator[None]]:
    """Record the given share of traces while an application runs, and send them to a collector (OTLP over HTTP).

    For ``cleanup_ctx``. At the end it takes two seconds at the most to send what has not been sent.
    """

    async def while_running(_: object) -> AsyncIterator[None]:
        global _recorder
        from common.trace_export import Exporter

        async with Exporter(service, endpoint) as exporter:
            _recorder = Recorder(exporter, sample_ratio)
            try:
                yield
            finally:
                _recorder = None

    return while_running


def is_on() -> bool:
    return _recorder is not None


def outgoing() -> str | None:
    """The ``traceparent`` of a call: what goes on here, or that it was decided not to record it."""
    trace = context.trace_context.get()
    return trace if trace is not None or _recorder is None else _new_traceparent(None, is_sampled=False)


def request_span(name: str, attributes: Attributes) -> Traced:
    """The span of a request that comes in: it goes on with the caller's trace, or begins one."""
    if _recorder is None:
        return UNTRACED
    trace = context.trace_context.get()
    is_wanted = random.random() < _recorder.sample_ratio if trace is None else context.is_sampled(trace)
    return Span(_recorder, name, "SERVER", trace, attributes) if is_wanted else UNTRACED


def span(name: str, kind: Kind = "INTERNAL", attributes: Attributes | None = None) -> Traced:
    """A span within the one that is going on; without one, or when that is not sampled, nothing."""
    if _recorder is None:
        return UNTRACED
    trace = context.sampled_trace()
    return UNTRACED if trace is None else Span(_recorder, name, kind, trace, attributes or {})


def shared_span(name: str, traces: Iterable[str | None], attributes: Attributes) -> Traced:
    """The span of work that is done for several requests at once, known by their traces.

    It belongs to the first trace that is sampled, and is linked to the others. Those of them that go on here are linked
    back: so one finds from a request to what was done for it.
    """
    if _recorder is None:
        return UNTRACED
    sampled = [trace for trace in dict.fromkeys(traces) if trace is not None and context.is_sampled(trace)]
    if not sampled:
        return UNTRACED
    first, *others = sampled
    shared = Span(_recorder, name, "INTERNAL", first, attributes, others)
    for other in others:
        if other in _recorder.going_on:
            _recorder.going_on[other].links.append(shared.traceparent)
    return shared


@lru_cache(maxsize=512)
def statement_name(sql: str) -> str:
    """What a statement does to which table, without any value: ``INSERT orders``."""
    found = _STATEMENT.match(sql)
    return " ".join(filter(None, found.groups())) if found else "statement"


def _new_traceparent(parent: str | None, *, is_sampled: bool) -> str:
    trace_id = parent[3:35] if parent else f"{random.getrandbits(128) or 1:032x}"
    return f"00-{trace_id}-{random.getrandbits(64) or 1:016x}-{'01' if is_sampled else '00'}"
