"""Several processes for one service: a supervisor starts workers that share the port, and those that die again."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common import worker_metrics
from common.settings import ServiceSettings, refuse_port, refuse_setting
from common.telemetry import log

# What a worker gets to know its number by; nobody else is to use it.
NUMBER_FLAG = "--worker-number"

_RESTART_DELAY_MIN_S = 0.2
_RESTART_DELAY_MAX_S = 5.0
# Whoever ran this long did not die of its start.
_RAN_WELL_S = 30.0
# The exit code of a process that refuses its settings; starting it again would not help.
_SETTINGS_REFUSED = 2
# How a worker ends that is told to before it listens to us.
_ENDED_AS_TOLD = (0, -signal.SIGTERM, -signal.SIGINT)


def supervise(settings: ServiceSettings) -> int:
    """Run ``settings.workers`` processes of this program until SIGTERM or SIGINT lets them drain; the exit code.

    A worker that dies is started again. When the supervisor dies, however it does, its workers drain and end.
    Ends the process with 2 if the port is taken, or when a worker refuses its settings.
    """
    with tempfile.TemporaryDirectory(prefix="vv-metrics-") as folder:
        # For the workers, from their first line on; this process has no metrics.
        os.putenv(worker_metrics.FOLDER_VARIABLE, folder)
        return asyncio.run(_Supervisor(settings, folder).run())


class _Supervisor:
    def __init__(self, settings: ServiceSettings, metrics_folder: str) -> None:
        self._settings = settings
        self._metrics_folder = metrics_folder
        self._stopping = asyncio.Event()
        self._workers: dict[int, asyncio.subprocess.Process] = {}
        # The workers read one end and never get anything: that it closes tells them that we are gone.
        self._leash, self._held = os.pipe()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        async with _port_of_ours(self._settings):
            codes = await asyncio.gather(*(self._keep_alive(number) for number in range(self._settings.workers)))
        failures = [code for code in codes if code]
        # As a shell reports a death by a signal.
        return next((code if code > 0 else 128 - code for code in failures), 0)

    def _stop(self, signal_number: int) -> None:
        self._stopping.set()
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                worker.send_signal(signal_number)

    async def _keep_alive(self, number: int) -> int:
        """Run a worker, again and again, until all are to stop; the exit code of its last run."""
        delay_s = _RESTART_DELAY_MIN_S
        is_first = True
        while True:
            started = time.monotonic()
            code = await self._run(number)
            if self._stopping.is_set():
                return 0 if code in _ENDED_AS_TOLD else code
            if code == _SETTINGS_REFUSED and is_first:
                self._stop(signal.SIGTERM)
                return code
            # Later it is for what has changed since, and may change again: a certificate that is being renewed.
            is_first = False
            if time.monotonic() - started > _RAN_WELL_S:
                delay_s = _RESTART_DELAY_MIN_S
            log.warning("worker_ended", worker=number, exit_code=code, again_in_s=delay_s)
            self._forget_crash_point()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()
                return 0
            delay_s = min(2 * delay_s, _RESTART_DELAY_MAX_S)

    async def _run(self, number: int) -> int:
        command = [sys.executable, *sys.orig_argv[1:], NUMBER_FLAG, str(number)]
        worker = await asyncio.create_subprocess_exec(*command, stdin=self._leash)
        self._workers[number] = worker
        log.info("worker_started", worker=number, pid=worker.pid)
        if self._stopping.is_set():
            worker.terminate()
        code = await worker.wait()
        worker_metrics.forget(number, self._metrics_folder)
        return code

    def _forget_crash_point(self) -> None:
        # It kills the first life only: in the next one recovery comes by it, too.
        os.unsetenv(f"{self._settings.model_config.get('env_prefix', '')}CRASH_POINT")


@asynccontextmanager
async def _port_of_ours(settings: ServiceSettings) -> AsyncIterator[None]:
    """Keep the port for our workers; ends the process when it is somebody else's.

    Workers share a port with whoever shares it, so another instance of the service would go unnoticed. Therefore
    first we listen without sharing, which fails if anybody is there, and then hold the port without listening:
    a socket that is shared, and not to be reused, keeps away all who do not share.
    """
    if settings.port == 0:
        refuse_setting(settings, "port", "0 gives each worker a port of its own; name one.")
    loop = asyncio.get_running_loop()
    address = (asyncio.Protocol, settings.host, settings.port)
    try:
        alone = await loop.create_server(*address, reuse_address=True)
        alone.close()
        await alone.wait_closed()
        holder = await loop.create_server(*address, reuse_address=True, reuse_port=True, start_serving=False)
    except OSError as error:
        refuse_port(settings, error)
    for held in holder.sockets:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    try:
        yield
    finally:
        holder.close()
