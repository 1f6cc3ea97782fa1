"""What travels with a request: its id, the time left for it and the trace that it belongs to."""

import re
import time
from contextvars import ContextVar

REQUEST_ID_HEADER = "X-Request-ID"
DEADLINE_HEADER = "X-Deadline-Ms"
TRACE_HEADER = "traceparent"

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
trace_context: ContextVar[str | None] = ContextVar("trace_context", default=None)
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)

# W3C Trace Context, https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def is_request_id(text: str) -> bool:
    """Whether a caller's request id is short and plain enough to be logged and echoed."""
    return _REQUEST_ID.fullmatch(text) is not None


def is_trace_context(text: str) -> bool:
    return _TRACEPARENT.fullmatch(text) is not None


def sampled_trace() -> str | None:
    """The trace that is going on, if somebody records it; nobody else has a use for its context later on."""
    trace = trace_context.get()
    return trace if trace is not None and is_sampled(trace) else None


def is_sampled(trace: str) -> bool:
    """By the last bit of its flags: https://www.w3.org/TR/trace-context/#sampled-flag"""
    return trace[-1] in "13579bdf"


def is_same_trace(one: str, other: str) -> bool:
    """Whether two contexts are of spans of one trace."""
    return one[:35] == other[:35]


def set_deadline(seconds: float | None) -> None:
    """Give the current task and what it starts ``seconds`` from now; ``None`` lifts the limit."""
    _deadline.set(None if seconds is None else time.monotonic() + seconds)


def seconds_to_answer(at_most: float) -> float:
    """Seconds until an answer should be on its way: the caller is to have it before giving up."""
    return 0.9 * seconds_left(at_most)


def seconds_left(at_most: float) -> float:
    """Seconds until the deadline, never more than ``at_most`` and never below zero."""
    deadline = _deadline.get()
    if deadline is None:
        return at_most
    return max(0.0, min(at_most, deadline - time.monotonic()))
