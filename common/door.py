"""The door of a service: once it is full, requests are refused before anything is done for them.

On the usual way, with its request object, task, log line and middlewares, a refusal costs a fair part of an order, and
under three times the load that a service can bear there are twice as many refusals as orders. At the door it is a look
at the bytes.
"""

import json
import re
import time
from collections.abc import Collection

from uuid_utils import uuid7

from common import context
from common.errors import PROBLEM_CONTENT_TYPE, Overloaded
from common.telemetry import Metrics, log

_REQUEST = re.compile(rb"(GET|POST|PATCH) (/[^ ?]*)[^ ]* HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([^\r\n]*)")
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([!-~]+)[ \t]*\r\n", re.IGNORECASE)
# What makes the end of a request, or of its connection, a matter of more than its length.
_NOT_PLAIN = (b"\r\ntransfer-encoding:", b"\r\nexpect:", b"\r\nupgrade:", b"\r\nconnection: close")
_RETRY_AFTER_S = 1
_LOG_EVERY_S = 1.0


class Door:
    """Lets ``at_most`` requests in at once. Whoever is let in is counted in ``in_flight``.

    :param open_to_all: paths to which everybody is let in at any time
    :param known: paths that are told apart in the metrics
    """

    def __init__(self, at_most: int, metrics: Metrics, *, open_to_all: Collection[str], known: Collection[str]) -> None:
        self.in_flight = 0
        self._at_most = at_most
        self._metrics = metrics
        self._open_to_all = open_to_all
        self._known = known
        self._refused = 0
        self._log_next = 0.0

    @property
    def is_full(self) -> bool:
        return self.in_flight >= self._at_most

    def refusal(self) -> Overloaded:
        return Overloaded(f"{self._at_most} requests are being answered already.", retry_after_s=_RETRY_AFTER_S)

    def refuse(self, data: bytes) -> bytes | None:
        """The reply to a request that is refused; ``None`` if these bytes are not one whole request of a plain kind."""
        start = _REQUEST.match(data)
        path = start[2].decode("latin-1") if start else ""
        if start is None or path in self._open_to_all or not _is_whole(data):
            return None
        self._count(start[1].decode(), path)
        offered = _REQUEST_ID.search(data)
        request_id = offered[1].decode() if offered else ""
        return self._reply(request_id if context.is_request_id(request_id) else str(uuid7()))

    def _reply(self, request_id: str) -> bytes:
        body = json.dumps(self.refusal().to_problem(request_id))
        return (
            f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {PROBLEM_CONTENT_TYPE}\r\n"
            f"Retry-After: {_RETRY_AFTER_S}\r\n{context.REQUEST_ID_HEADER}: {request_id}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def _count(self, method: str, path: str) -> None:
        self._metrics.requests.labels(method, path if path in self._known else "unmatched", "503").inc()
        self._refused += 1
        if time.monotonic() >= self._log_next:
            log.warning("refused", requests=self._refused, in_flight=self.in_flight)
            self._refused = 0
            self._log_next = time.monotonic() + _LOG_EVERY_S


def _is_whole(data: bytes) -> bool:
    head, blank, body = data.partition(b"\r\n\r\n")
    lines = head.lower() + b"\r\n"
    lengths = _LENGTH.findall(lines)
    return (
        bool(blank)
        and len(lengths) <= 1
        and str(len(body)).encode() == (lengths[0].strip() if lengths else b"0")
        and not any(name in lines for name in _NOT_PLAIN)
    )
