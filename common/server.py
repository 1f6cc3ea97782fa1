"""Run an application until SIGTERM or SIGINT, then drain it: ``/readyz`` fails first, running requests finish."""

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from aiohttp import web

from common import tracing, worker_metrics
from common.door import is_whole
from common.middleware import malformed_http
from common.settings import S, ServiceSettings, read_settings, refuse_port
from common.telemetry import configure_logging, log
from common.web import DOOR, DRAINING, SECURITY
from common.workers import NUMBER_FLAG, supervise

# Longer than the keep-alive of usual proxies (60 s), which must be the side that closes.
_KEEPALIVE_S = 75.0
# For the first request of a connection to come, for a head that has begun to be complete, and for a reply to be taken.
# Enough for poor lines; who takes longer holds a connection, and most who do mean to.
_PATIENCE_S = 10.0
# With the time for a body (common/web.py) no longer than that: the rest of one that nobody wants is read for so long,
# as a connection that closes with bytes unread is reset, and the caller would not get to read why.
_LINGER_S = 2.0
# For the requests that are on their way over a connection of ours when the port closes.
_LAST_REQUESTS_S = 0.1


def main(service: str, settings_class: type[S], make_app: Callable[[S], web.Application]) -> None:
    """``python -m order_service``: serve until a signal ends the process, or supervise the workers that serve."""
    flags = _read_flags(service)
    settings = read_settings(settings_class, **({"workers": flags.workers} if flags.workers is not None else {}))
    worker: int | None = flags.worker_number
    configure_logging(service, settings.log_level, worker)
    if settings.workers > 1 and worker is None:
        raise SystemExit(supervise(settings))
    if worker is not None:
        worker_metrics.share_as(worker)
    if settings.trace_endpoint is not None:
        tracing.configure(service, settings.trace_endpoint, settings.trace_sample_ratio)
    run(make_app(settings), settings, is_worker=worker is not None)
    tracing.shut_down()


def run(app: web.Application, settings: ServiceSettings, *, is_worker: bool = False) -> None:
    """Serve ``app`` on the address of ``settings`` until a signal ends the process; workers share the port."""
    raise_open_files_limit()
    # Young objects here live for one request; scanning them after every 700 allocations only costs time.
    gc.set_threshold(10_000, 20, 50)
    asyncio.run(_serve(app, settings, is_worker=is_worker))


def _read_flags(service: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {service}_service",
        description=f"Run the {service} service. Its settings are environment variables; the README lists them.",
        allow_abbrev=False,
    )
    variable = f"{service.upper()}_WORKERS"
    parser.add_argument(
        "--workers", type=int, metavar="N", help=f"processes that share the port; {variable} if it is not given"
    )
    parser.add_argument(NUMBER_FLAG, type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


async def _serve(app: web.Application, settings: ServiceSettings, *, is_worker: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if is_worker:
        _stop_with_the_supervisor(stopped)

    runner = _Runner(
        app,
        access_log=None,
        keepalive_timeout=_KEEPALIVE_S,
        lingering_time=_LINGER_S,
        shutdown_timeout=settings.drain_timeout_s,
    )
    await runner.setup()
    tls = app[SECURITY].server_tls if SECURITY in app else None
    try:
        site = _Site(
            runner,
            settings.host,
            settings.port,
            ssl_context=tls,
            backlog=2048,
            reuse_address=True,
            reuse_port=is_worker,
        )
        try:
            await site.start()
        except OSError as error:
            refuse_port(settings, error)
        log.info("started", host=settings.host, port=settings.port, tls=tls is not None)
        for doubt in settings.doubts:
            log.warning("setting_in_doubt", problem=doubt)
        await stopped.wait()
        log.info("draining")
        app[DRAINING].set()
        await asyncio.sleep(settings.drain_delay_s)
        await _close_port(site, runner)
        await asyncio.sleep(_LAST_REQUESTS_S)
    finally:
        await runner.cleanup()
    log.info("stopped")


class _Site(web.TCPSite):
    """A port, on which connections that never finish their TLS handshake are cut, too."""

    async def start(self) -> None:
        await web.BaseSite.start(self)
        assert self._runner.server is not None
        self._server = await asyncio.get_running_loop().create_server(
            self._runner.server,
            self._host,
            self._port,
            backlog=self._backlog,
            reuse_address=self._reuse_address,
            reuse_port=self._reuse_port,
            **self.tls,
        )

    @property
    def tls(self) -> dict[str, Any]:
        """As asyncio takes it."""
        if self._ssl_context is None:
            return {}
        return {
            "ssl": self._ssl_context,
            "ssl_handshake_timeout": _PATIENCE_S,
            "ssl_shutdown_timeout": _LINGER_S,
        }


async def _close_port(site: _Site, runner: web.AppRunner) -> None:
    """Close the port, and serve those who had connected to it: the system resets whom nobody has accepted yet."""
    assert isinstance(site._server, asyncio.Server)
    assert runner.server is not None
    connected: list[socket.socket] = []
    for listening in site._server.sockets:
        with socket.socket(fileno=os.dup(listening.fileno())) as queue, contextlib.suppress(BlockingIOError):
            while True:
                connected.append(queue.accept()[0])
    await site.stop()
    for connection in connected:
        connection.setblocking(False)
    # Who fails the handshake, or hangs up during it, has lost nothing.
    loop = asyncio.get_running_loop()
    serving = [loop.connect_accepted_socket(runner.server, connection, **site.tls) for connection in connected]
    await asyncio.gather(*serving, return_exceptions=True)


def _stop_with_the_supervisor(stopped: asyncio.Event) -> None:
    """Standard input of a worker is a pipe into which nobody writes; it ends when the supervisor does."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(sys.stdin)
        stopped.set()

    loop.add_reader(sys.stdin, stop)


class _RequestHandler(web.RequestHandler):
    """aiohttp's connection handler, with problem documents also for bytes that are not a request, with a door, and
    without patience for clients that are slow, which is what aiohttp has no limits for."""

    __slots__ = ("_door", "_draining", "_head_due", "_is_new", "_is_partial", "_reply_due")

    def __init__(self, *args: Any, app: web.Application, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The floor of the benchmark has none.
        self._door = app.get(DOOR)
        self._draining = app[DRAINING]
        # Whether aiohttp has not begun to wait for the first request yet; over TLS, bytes may come before.
        self._is_new = True
        # Whether the parser may hold the beginning of a request.
        self._is_partial = False
        # When the connection is cut, unless something happens before.
        self._head_due: asyncio.TimerHandle | None = None
        self._reply_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._head_due = self._loop.call_later(_PATIENCE_S, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        for due in (self._head_due, self._reply_due):
            if due is not None:
                due.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        assert self.transport is not None
        self._reply_due = self._loop.call_later(_PATIENCE_S, self.transport.abort)

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
        if self._door is not None:
            # Behind a request, in the same bytes or while it is being answered, the next one may have begun.
            self._is_partial = not was_idle or self._is_waiting() or not is_whole(data)

    def _expect_head(self, *, began: bool) -> None:
        """A head that has begun is to be complete in time; between requests a client may take longer."""
        if not began and self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None
        elif began and self._head_due is None:
            self._head_due = self._loop.call_later(_PATIENCE_S, self.force_close)

    def _refuse(self, data: bytes) -> bool:
        """Answer at the door, if it is full. Who does not read the answers goes the usual way, which waits for him."""
        door = self._door
        if door is None or not door.is_full or self._is_partial or self.writing_paused or self._draining.is_set():
            return False
        reply = door.refuse(data)
        if reply is None:
            return False
        assert self.transport is not None
        self.transport.write(reply)
        self._next_keepalive_close_time = self._loop.time() + _KEEPALIVE_S
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

    def __call__(self) -> web.RequestHandler:
        return _RequestHandler(self, loop=self._loop, app=self.app, **self._kwargs)


class _Runner(web.AppRunner):
    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        # aiohttp has no option for the class of its connection handlers.
        server.__class__ = _Server
        assert isinstance(server, _Server)
        server.app = self.app
        return server


def raise_open_files_limit() -> None:
    """A thousand buyers are a thousand sockets, and the database opens a file a table and connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # More than anybody needs, but not the millions of some containers: programs loop over all of them.
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
