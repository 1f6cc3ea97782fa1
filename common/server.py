"""Run an application until SIGTERM or SIGINT, then drain it: ``/readyz`` fails first, running requests finish."""

import argparse
import asyncio
import contextlib
import gc
import resource
import signal
import sys
from collections.abc import Callable

from aiohttp import web

from common import tracing, worker_metrics
from common.listener import Listener
from common.protocol import KEEPALIVE_S, LINGER_S, Runner
from common.settings import S, ServiceSettings, read_settings, refuse_port
from common.telemetry import configure_logging, log
from common.web import DRAINING, SECURITY
from common.workers import NUMBER_FLAG, supervise


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
    app = make_app(settings)
    if settings.trace_endpoint is not None:
        # Before everything else, and so until everything else has ended.
        app.cleanup_ctx.insert(0, tracing.recording(service, settings.trace_endpoint, settings.trace_sample_ratio))
    run(app, settings, is_worker=worker is not None)


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

    runner = Runner(
        app,
        access_log=None,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=LINGER_S,
        # aiohttp grants it twice: to the handler of a request, and then to the task of its connection. 0 is for ever.
        shutdown_timeout=max(0.001, settings.drain_timeout_s / 2),
    )
    await runner.setup()
    tls = app[SECURITY].server_tls if SECURITY in app else None
    try:
        listener = Listener(
            runner,
            settings.host,
            settings.port,
            ssl_context=tls,
            backlog=2048,
            reuse_address=True,
            reuse_port=is_worker,
        )
        try:
            await listener.start()
        except OSError as error:
            refuse_port(settings, error)
        log.info("started", host=settings.host, port=settings.port, tls=tls is not None)
        for doubt in settings.doubts:
            log.warning("setting_in_doubt", problem=doubt)
        await stopped.wait()
        log.info("draining")
        app[DRAINING].set()
        await asyncio.sleep(settings.drain_delay_s)
        await listener.close()
        await runner.await_requests()
    finally:
        await runner.cleanup()
    log.info("stopped")


def _stop_with_the_supervisor(stopped: asyncio.Event) -> None:
    """Standard input of a worker is a pipe into which nobody writes; it ends when the supervisor does."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(sys.stdin)
        stopped.set()

    loop.add_reader(sys.stdin, stop)


def raise_open_files_limit() -> None:
    """A thousand buyers are a thousand sockets, and the database opens a file a table and connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # More than anybody needs, but not the millions of some containers: programs loop over all of them.
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
