"""Processes that vv starts: on a leash, in a session of their own, with a log file each."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vv.output import Say

_LOG_BYTES_MAX = 50 * 1024 * 1024
_TAIL_BYTES_MAX = 8 * 1024
# Marks our processes in their environment, so that the next vv recognises those of one that was killed.
_MARK = "VV_STARTED_FOR"


class Child:
    """One process, started as often as needed.

    :param name: what lines about it call it
    :param command: the program with its path, and its arguments
    :param environment: the whole environment
    :param folder: the data folder that it works for
    :param log: the file to append its output to
    """

    # Lets it finish what it is at, and end.
    stop_signal = signal.SIGTERM

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self.name = name
        self._command = leashed(command)
        self._environment = marked(environment, folder)
        self._log = log
        self._log_start = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id, also of one that has ended; None before the first start."""
        return self._process.pid if self._process else None

    @property
    def has_ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    async def start(self) -> None:
        """Start the process. It is on the leash of the thread that runs the event loop. Raises OSError."""
        log = open_log(self._log)
        try:
            self._log_start = os.fstat(log).st_size
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                # Ctrl-C in a terminal reaches the whole process group; it is for vv alone.
                start_new_session=True,
            )
        finally:
            os.close(log)

    def forget_crash_points(self) -> None:
        """Let a crash point kill the first life only: in the next one recovery comes by it, too."""
        self._environment = {
            name: value for name, value in self._environment.items() if not name.endswith("_CRASH_POINT")
        }

    async def wait(self) -> int:
        """Wait for the end of the process and return its exit code, negative for a signal."""
        assert self._process is not None
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended or was never started. SIGKILL takes its workers along."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                if number is signal.SIGKILL:
                    os.killpg(self._process.pid, number)
                else:
                    self._process.send_signal(number)

    def doubts(self) -> list[str]:
        """What a service has said of its settings at the start of this run: a sentence each."""
        lines = self.last_lines(50).splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{") and '"setting_in_doubt"' in line]
        return [str(line["problem"]) for line in told]

    def last_lines(self, count: int = 15) -> str:
        """What it wrote last, of this run only."""
        return last_lines(self._log, self._log_start, count)


def leashed(command: Sequence[str]) -> list[str]:
    """The command so that it gets SIGTERM when the thread that starts it ends (Linux only)."""
    if sys.platform != "linux":
        return list(command)
    leash = Path(__file__).with_name("leash.py")
    return [sys.executable, "-I", "-S", str(leash), str(os.getpid()), *command]


def marked(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment with which a process is known to work for the data folder ``folder``."""
    return {**environment, _MARK: str(folder)}


def how_it_ended(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    return f"killed by {signal.Signals(-exit_code).name}"


def open_log(path: Path) -> int:
    """Open a log to append to; above 50 MB it is put aside first, in place of the one put aside before."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_BYTES_MAX:
            path.replace(path.with_name(f"{path.name}.1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def last_lines(log: Path, start: int, count: int) -> str:
    """The last lines of a log from byte ``start`` on."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - _TAIL_BYTES_MAX))
        lines = file.read().decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-count:])
    return ""


def wait_for_leftovers(folder: Path, timeout_s: float, say: Say) -> None:
    """Wait for what a killed vv has left in ``folder``: it is on its way out already. Blocks.

    Processes still there after ``timeout_s`` are killed. The caller holds the lock of the folder, so they are
    nobody else's.
    """
    left = _processes_of(folder)
    if not left:
        return
    say(f"Waiting for {len(left)} processes of the previous run to end.")
    # It may have been killed before its leash was on.
    _send(left, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while left := _processes_of(folder):
        if time.monotonic() > deadline:
            say(f"Killing what did not end: {', '.join(map(str, left))}.")
            _send(left, signal.SIGKILL)
            deadline = time.monotonic() + 5
        time.sleep(0.05)


def _processes_of(folder: Path) -> list[int]:
    mark = f"{_MARK}={folder}".encode()
    found = []
    # nginx writes its title over its environment.
    nginx = re.compile(rb"nginx: master process .*" + re.escape(f" {folder}/".encode()))
    # There is no /proc but on Linux; elsewhere there is no leash either, and ports in use tell of leftovers.
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # Read before it is split: the environment of a zombie is empty.
            is_ours = mark in (process / "environ").read_bytes().split(b"\0")
            if (is_ours or nginx.match((process / "cmdline").read_bytes())) and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
