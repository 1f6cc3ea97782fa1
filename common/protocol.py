"""aiohttp's connections, with load shedding, and without patience for slow clients, for which aiohttp has no limits."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

from aiohttp import web

from common.load_shedding import is_whole
from common.middleware import malformed_http
from common.web import BODY_WITHIN_S, DRAINING, LOAD_SHEDDER

# Longer than the keep-alive of usual proxies (60 s), which must be the side that closes.
KEEPALIVE_S = 75.0
# For the first request of a connection to come, for a head that has begun to be complete, and for a reply to be taken.
# Enough for poor lines; who takes longer holds a connection, and most who do mean to.
PATIENCE_S = 10.0
# With the time for a body (common/web.py) no longer than that: the rest of one that nobody wants is read for so long,
# as a connection that closes with bytes unread is reset, and the caller would not get to read why.
LINGER_S = 2.0
# For the first request of those who had connected when the port closed. Who connects is about to send, but in a crowd
# has to wait for its turn; some, though, only connect.
_FIRST_REQUESTS_S = 2.0
_LOOK_EVERY_S = 0.01


class _RequestHandler(web.RequestHandler):
    """Answers with problem documents also to bytes that are not a request."""

    __slots__ = ("__weakref__", "_draining", "_head_due", "_is_new", "_is_partial", "_reply_due", "_shedder")

    def __init__(self, *args: Any, app: web.Application, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The floor of the benchmark has none.
        self._shedder = app.get(LOAD_SHEDDER)
        self._draining = app[DRAINING]
        # Whether aiohttp has not begun to wait for the first request yet; over TLS, bytes may come before.
        self._is_new = True
        # Whether the parser may hold the beginning of a request.
        self._is_partial = False
        # When the connection is cut, unless something happens before.
        self._head_due: asyncio.TimerHandle | None = None
        self._reply_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(self._manager, _Server)
        self._manager.connecting.discard(self)
        super().connection_made(transport)
        self._head_due = self._loop.call_later(PATIENCE_S, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        for due in (self._head_due, self._reply_due):
            if due is not None:
                due.cancel()
        self._head_due = None
        super().connection_lost(exc)

    @property
    def awaits_head(self) -> bool:
        """Whether a request was promised: by connecting, or by its beginning."""
        return self._head_due is not None

    @property
    def awaits_body(self) -> bool:
        """Whether a request has come without the end of its body."""
        bodies = [body for _, body in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        return not all(body.is_eof() for body in bodies)

    def pause_writing(self) -> None:
        super().pause_writing()
        assert self.transport is not None
        self._reply_due = self._loop.call_later(PATIENCE_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reply_due is not None:
            self._reply_due.cancel()

    def data_received(self, data: bytes) -> None:
        was_idle = self._is_waiting()
        if was_idle and self._refuse(data):
            self._expect_head(began=False)
            return
        super().data_received(data)
        self._is_new = self._is_new and self._waiter is None and not self._messages
        self._expect_head(began=self._is_new or self._is_waiting())
        if self._shedder is not None:
            # Behind a request, in the same bytes or while it is being answered, the next one may have begun.
            self._is_partial = not was_idle or self._is_waiting() or not is_whole(data)

    def _expect_head(self, *, began: bool) -> None:
        """A head that has begun is to be complete in time; between requests a client may take longer."""
        if not began and self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None
        elif began and self._head_due is None:
            self._head_due = self._loop.call_later(PATIENCE_S, self.force_close)

    def _refuse(self, data: bytes) -> bool:
        """Answer at once if the service is full. A client that does not read goes the usual way, which waits for it."""
        shedder = self._shedder
        if shedder is None or not shedder.is_full or self._is_partial or self.writing_paused or self._draining.is_set():
            return False
        reply = shedder.refuse(data)
        if reply is None:
            return False
        assert self.transport is not None
        self.transport.write(reply)
        self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_S
        return True

    def _is_waiting(self) -> bool:
        """Whether aiohttp waits for a request that has not come yet, or not as a whole."""
        return self._waiter is not None and not self._waiter.done()

    def handle_error(
        self,
        request: Any,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if not 400 <= status < 500:
            return super().handle_error(request, status, exc, message)
        response = malformed_http(message)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        # A body that could not be decoded was answered already; aiohttp meets it again while it reads the rest.
        if not isinstance(kwargs.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kwargs)


class _Server(web.Server):
    app: web.Application
    # Those with whom the TLS handshake goes on. Nobody says when it has failed.
    connecting: WeakSet[_RequestHandler]

    def __call__(self) -> web.RequestHandler:
        handler = _RequestHandler(self, loop=self._loop, app=self.app, **self._kwargs)
        self.connecting.add(handler)
        return handler

    @property
    def awaits_heads(self) -> bool:
        return bool(self.connecting) or any(handler.awaits_head for handler in self._handlers)

    @property
    def awaits_bodies(self) -> bool:
        return any(handler.awaits_body for handler in self._handlers)

    @property
    def _handlers(self) -> Iterator[_RequestHandler]:
        return (handler for handler in self.connections if isinstance(handler, _RequestHandler))


class Runner(web.AppRunner):
    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        # aiohttp has no option for the class of its connection handlers.
        server.__class__ = _Server
        assert isinstance(server, _Server)
        server.app = self.app
        server.connecting = WeakSet()
        return server

    async def await_requests(self) -> None:
        """Return when all who have connected have sent a whole request, or have had the time for it."""
        server = self.server
        assert isinstance(server, _Server)
        # Of handshakes that have failed.
        gc.collect()
        await _wait_while(lambda: server.awaits_heads, _FIRST_REQUESTS_S)
        await _wait_while(lambda: server.awaits_bodies, BODY_WITHIN_S)


async def _wait_while(is_so: Callable[[], bool], at_most_s: float) -> None:
    """Until it is not so twice in a row: between two turns of the loop aiohttp has a request nowhere to be seen."""
    was_so = True
    for _ in range(round(at_most_s / _LOOK_EVERY_S)):
        was_so, before = is_so(), was_so
        if not was_so and not before:
            return
        await asyncio.sleep(_LOOK_EVERY_S)
