"""One process of the cluster: started, killed, stopped and woken up as the faults like."""

import asyncio
import contextlib
import http.client
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Self

from vv import process

READY_WITHIN_S = 30.0
_POLL_S = 0.05
_RESTART_DELAY_S = 0.2


class Process:
    """A program with its environment. Nothing of it outlives the thread that starts it (Linux).

    ``is_ready`` tells whether it can do its work; it may block for a second.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        is_ready: Callable[[], bool],
        folder: Path,
    ) -> None:
        self.name = name
        self.log = log
        self._command = process.leashed(command)
        self._environment = environment
        self._is_ready = is_ready
        self._folder = folder
        self._settings: Mapping[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        # How often it ended by itself before it was ready; whoever supervises it starts it again.
        self.false_starts = 0
        # For one fault at a time.
        self.to_ourselves = asyncio.Lock()

    @property
    def pid(self) -> int:
        """The process id; raises AssertionError before the first start."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs, or would if it were not stopped."""
        return self._process is not None and self._process.poll() is None

    def start(self, **settings: str) -> Self:
        """Start it, with further environment variables for this life; it is not ready yet."""
        assert not self.is_alive, f"{self.name} runs already"
        self._settings = settings
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._environment, **settings},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal is for the harness alone.
                start_new_session=True,
            )
        return self

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def terminate(self) -> None:
        """SIGTERM; it may take its time to finish."""
        self._signal(signal.SIGTERM)

    def suspend(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT; nothing happens to one that runs."""
        self._signal(signal.SIGCONT)

    def end(self, timeout_s: float = 10.0) -> None:
        """SIGTERM, and SIGKILL for one that does not end in time. Blocks."""
        self.resume()
        self.terminate()
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()

    async def ended(self, timeout_s: float = 15.0) -> None:
        """Wait until it has ended; kill it when that takes longer than ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        while self.is_alive:
            if time.monotonic() > deadline:
                self.kill()
            await asyncio.sleep(_POLL_S)

    async def ready(self) -> None:
        """Wait until it is ready; start it again when it ends before. Raises AssertionError with the end of its log."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not await asyncio.to_thread(self._is_ready):
            if time.monotonic() > deadline:
                self._complain("is not ready in time")
            if not self.is_alive:
                self.false_starts += 1
                await asyncio.sleep(_RESTART_DELAY_S)
                self.start(**self._settings)
            await asyncio.sleep(_POLL_S)

    def wait_until_ready(self) -> None:
        """The same for the first start, which must succeed. Blocks."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._is_ready():
            if time.monotonic() > deadline or not self.is_alive:
                self._complain("did not start")
            time.sleep(_POLL_S)

    def _complain(self, problem: str) -> NoReturn:
        raise AssertionError(f"{self.name} {problem}. The end of its log:\n{self.log.read_text()[-3_000:]}")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def answers_with_200(url: str) -> bool:
    """Whether a GET of ``url`` is answered with 200 within a second."""
    try:
        with urllib.request.urlopen(url, timeout=1) as reply:
            return bool(reply.status == 200)
    except (OSError, http.client.HTTPException):
        return False
