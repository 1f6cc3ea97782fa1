"""Run an application until SIGTERM or SIGINT, then drain it: ``/readyz`` fails first, running requests finish."""

import asyncio
import contextlib
import gc
import resource
import signal
from typing import Any

from aiohttp import web

from common.middleware import malformed_http
from common.settings import ServiceSettings, refuse_setting
from common.telemetry import log
from common.web import DRAINING

# Longer than the keep-alive of usual proxies (60 s), which must be the side that closes.
_KEEPALIVE_S = 75.0


def run(app: web.Application, settings: ServiceSettings) -> None:
    """Serve ``app`` on the address of ``settings`` until a signal ends the process."""
    raise_open_files_limit()
    # Young objects here live for one request; scanning them after every 700 allocations only costs time.
    gc.set_threshold(10_000, 20, 50)
    asyncio.run(_serve(app, settings))


async def _serve(app: web.Application, settings: ServiceSettings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    runner = _Runner(app, access_log=None, keepalive_timeout=_KEEPALIVE_S, shutdown_timeout=settings.drain_timeout_s)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, backlog=2048, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            refuse_setting(settings, "port", f"{settings.host}:{settings.port} cannot be used: {error.strerror}")
        log.info("started", host=settings.host, port=settings.port)
        await stopped.wait()
        log.info("draining")
        app[DRAINING].set()
        await asyncio.sleep(settings.drain_delay_s)
    finally:
        await runner.cleanup()
    log.info("stopped")


class _RequestHandler(web.RequestHandler):
    """aiohttp's connection handler, with problem documents also for bytes that are not a request."""

    __slots__ = ()

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
    def __call__(self) -> web.RequestHandler:
        return _RequestHandler(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        # aiohttp has no option for the class of its connection handlers.
        server.__class__ = _Server
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
