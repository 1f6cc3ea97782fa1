"""What a container engine would make of an image: a process of its own world, read-only, and nobody in particular."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.image.dockerfile import Stage

# Read-only but for /tmp, in which nothing can be executed. Then: no capabilities, no way to get any, process 1.
_ENTER = """
set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount -o remount,ro,bind "$ROOT"
mount -t proc -o nosuid,nodev,noexec proc "$ROOT/proc"
mount -t tmpfs -o mode=1777,nosuid,nodev,noexec tmpfs "$ROOT/tmp"
mount -t tmpfs -o mode=0755,nosuid,nodev,noexec tmpfs "$ROOT/run"
mkdir "$ROOT/run/secrets"
mount --bind "$SECRETS" "$ROOT/run/secrets"
mount -o remount,ro,bind "$ROOT/run/secrets"
exec chroot "$ROOT" setpriv --reuid="${OWNER%:*}" --regid="${OWNER#*:}" --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all env -i "$@"
"""


class Container:
    """A program in the root of an image, as its Dockerfile says.

    :param secrets: the folder that is at /run/secrets
    :param command: what stands in place of CMD
    """

    def __init__(
        self, root: Path, image: Stage, secrets: Path, command: Sequence[str], settings: Mapping[str, str], log: Path
    ) -> None:
        self.command = list(command)
        self._image = image
        self._log = log
        self._environment = {**image.environment, **settings}
        self._outside = {**os.environ, "ROOT": str(root), "SECRETS": str(secrets), "OWNER": image.user}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def start(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "sh"),
                    *(f"{name}={value}" for name, value in self._environment.items()),
                    *self._image.entrypoint,
                    *self.command,
                ],
                env=self._outside,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def execute(self, command: Sequence[str]) -> int:
        """A further process beside the first one, as health checks are run; its exit code."""
        entered = subprocess.run(
            [
                *("nsenter", f"--target={self.pid}", "--mount", "--pid", "--root", "--wd=/"),
                *("setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "--no-new-privs", "env", "-i"),
                *(f"{name}={value}" for name, value in self._environment.items()),
                *command,
            ],
            capture_output=True,
            check=False,
        )
        return entered.returncode

    @property
    def pid(self) -> int:
        """That of its process 1, outside; it may take a moment until there is one."""
        assert self._process is not None
        deadline = time.monotonic() + 30
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while not (found := children.read_text().split()):
            assert self._process.poll() is None, self.output[-2_000:]
            assert time.monotonic() < deadline, self.output[-2_000:]
            time.sleep(0.005)
        return int(found[0])

    def wait_until_healthy(self, within_s: float = 30) -> float:
        """The seconds that it took."""
        started = time.monotonic()
        while self.execute(self._image.health_check) != 0:
            assert self._process is not None
            assert self._process.poll() is None, self.output[-2_000:]
            assert time.monotonic() < started + within_s, self.output[-2_000:]
            time.sleep(0.1)
        return time.monotonic() - started

    def wait_until_executed(self) -> None:
        """Until Python is there, and has read what it reads before anything else."""
        deadline = time.monotonic() + 30
        while b"python" not in self._command_line() or self._catches_no_sigterm():
            assert time.monotonic() < deadline, self.output[-2_000:]
            time.sleep(0.005)

    def _command_line(self) -> bytes:
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")[0]
        except (OSError, IndexError):
            return b""

    def _catches_no_sigterm(self) -> bool:
        status = Path(f"/proc/{self.pid}/status").read_text()
        [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
        return not int(caught, 16) >> (signal.SIGTERM - 1) & 1

    def terminate(self) -> int:
        """SIGTERM to process 1; the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self, timeout_s: float = 60) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
