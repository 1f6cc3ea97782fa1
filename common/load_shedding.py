"""Load shedding: once a service has enough to do, further requests are refused before anything is done for them.

On the usual way, with its request object, task, log line and middlewares, a refusal costs a fair part of an order, and
under three times the load that a service can bear there are twice as many refusals as orders. Here it is a look at the
bytes.
"""

import asyncio
import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from uuid_utils import uuid7

from common import context
from common.errors import PROBLEM_CONTENT_TYPE, Overloaded
from common.telemetry import Metrics, log

# No more than the parser accepts: where the two disagree about the end of a request, another one could be smuggled in.
_HEAD = re.compile(
    rb"(GET|POST|PATCH) (/[!->@-~]*)(?:\?[!-~]*)? HTTP/1\.1"
    rb"(?:\r\n[!#-'*+.^-z|~0-9A-Z-]+:[^\0-\x08\n-\x1f\x7f]*)*\r\n\r\n"
)
# Of these patterns none goes over a byte more than once: anybody may send a megabyte of blanks.
_LENGTH = re.compile(rb"\r\ncontent-length:([^\r]*)")
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([!-~]+)[ \t]*\r\n", re.IGNORECASE)
# What makes the end of a request, or of its connection, a matter of more than its length.
_NOT_PLAIN = re.compile(rb"\r\n(?:(?:transfer-encoding|expect|upgrade):|connection:(?![ \t]*keep-alive[ \t]*\r))")
_RETRY_AFTER_S = 1
_LOG_EVERY_S = 1.0


class LoadShedder:
    """Lets ``at_most`` requests in at once; those are counted in ``in_flight`` that were :meth:`admitted`.

    :param open_to_all: paths to which everybody is let in at any time
    :param known: paths that are told apart in the metrics, as routes have them (``/orders/{order_id}``)
    """

    def __init__(self, at_most: int, metrics: Metrics, *, open_to_all: Collection[str], known: Collection[str]) -> None:
        self.in_flight = 0
        self._at_most = at_most
        self._metrics = metrics
        self._open_to_all = open_to_all
        self._known = {path: re.compile(re.sub(r"{\w+}", "[^/]+", path)) for path in known}
        self._refused = 0

    @property
    def is_full(self) -> bool:
        return self.in_flight >= self._at_most

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """For the time in which a request is worked at. Raises Overloaded.

        It has come as a whole by then: whoever sends slowly takes nobody's place.
        """
        if self.is_full:
            raise self.refusal()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def refusal(self) -> Overloaded:
        return Overloaded(f"{self._at_most} requests are being answered already.", retry_after_s=_RETRY_AFTER_S)

    def refuse(self, data: bytes) -> bytes | None:
        """The reply to a request that is refused; ``None`` if these bytes are not one whole request of a plain kind."""
        head = _match_plain(data)
        path = head[2].decode() if head else ""
        if head is None or path in self._open_to_all:
            return None
        self._count(head[1].decode(), path)
        offered = _REQUEST_ID.search(head[0])
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
        route = next((known for known, pattern in self._known.items() if pattern.fullmatch(path)), "unmatched")
        self._metrics.requests.labels(method, route, "503").inc()
        if not self._refused:
            asyncio.get_running_loop().call_later(_LOG_EVERY_S, self._log)
        self._refused += 1

    def _log(self) -> None:
        log.warning("refused", requests=self._refused, in_flight=self.in_flight)
        self._refused = 0


def is_whole(data: bytes) -> bool:
    """Whether these bytes are one whole request of a plain kind, and nothing of the next one."""
    return _match_plain(data) is not None


def _match_plain(data: bytes) -> re.Match[bytes] | None:
    head = _HEAD.match(data)
    if head is None:
        return None
    lines = head[0].lower()
    lengths = [length.strip(b" \t") for length in _LENGTH.findall(lines)] or [b"0"]
    is_plain = lengths == [b"%d" % (len(data) - head.end())] and not _NOT_PLAIN.search(lines)
    return head if is_plain else None
