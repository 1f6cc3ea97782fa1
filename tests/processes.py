"""The services as real processes, started and killed as the tests like."""

import contextlib
import itertools
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from common.certificates import Certificates

_READY_WITHIN_S = 20.0

# Short leases, so that a test need not wait for recovery as long as a shop would.
FAST_RECOVERY = {
    "ORDER_LEASE_S": "1.5",
    "ORDER_RECOVERY_INTERVAL_S": "0.1",
    "ORDER_RETRY_FIRST_S": "0.1",
    "ORDER_RETRY_MOST_S": "0.5",
    "PAYMENT_LEASE_S": "1.5",
    "PAYMENT_RECOVERY_INTERVAL_S": "0.1",
    "PAYMENT_RETRY_FIRST_S": "0.1",
    "PAYMENT_RETRY_MOST_S": "0.5",
    "PAYMENT_SANDBOX_SLOW_S": "1",
    "ORDER_DRAIN_DELAY_S": "0",
    "INVENTORY_DRAIN_DELAY_S": "0",
    "PAYMENT_DRAIN_DELAY_S": "0",
}


def _ports() -> Iterator[int]:
    """One after the other from anywhere on: none is given twice, and hardly by two processes at the same time."""
    ports = range(20_000, 32_768)
    start = random.SystemRandom().randrange(len(ports))
    return itertools.islice(itertools.cycle(ports), start, None)


_PORTS = _ports()


def free_port() -> int:
    """Nobody listens on it now, and it stays free until somebody does: Linux gives it to no connection as its own end,
    unlike those from 32,768 on, which a thousand buyers use up fast."""
    while True:
        port = next(_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def free_port_offset() -> int:
    """For ``vv up`` and ``vv bench``: nobody listens on any of their ports now, and Linux gives none of them away."""
    while True:
        offset = random.randrange(1_000, 19_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for port in (8081, 8082, 8083, 8443, 13306):
                probes.enter_context(socket.create_server(("127.0.0.1", port + offset)))
            return offset


def certificate_of(name: str, folder: Path) -> Certificates:
    """One of the certificates that ``vv certs`` has made in a folder."""
    return Certificates(folder / f"{name}.crt", folder / f"{name}.key", folder / "ca.crt")


class ManagedProcess:
    """A program that answers HTTP on a port of its own; what it says goes to ``log``."""

    ENDS_WITHIN_S = 20.0

    def __init__(self, log: Path) -> None:
        self.log = log
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        raise NotImplementedError

    def _run(self, *command: str, **environment: str) -> Self:
        """Start it with further environment variables, and wait until it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command], env={**os.environ, **environment}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _READY_WITHIN_S
        while not self.is_ready():
            assert self._process.poll() is None, self.log.read_text()[-2_000:]
            assert time.monotonic() < deadline, f"{command[0]} is not ready: {self.log.read_text()[-2_000:]}"
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(self.ENDS_WITHIN_S)


def answers(url: str, tls: ssl.SSLContext | None = None) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1, context=tls) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def is_alive(pid: int) -> bool:
    """Whether the process runs: one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class ServiceProcess(ManagedProcess):
    """``python -m NAME_service`` on a port of its own, with the certificates in the folder ``tls`` if there is one."""

    ENDS_WITHIN_S = 35.0

    def __init__(self, name: str, environment: Mapping[str, str], log: Path, tls: Path | None = None) -> None:
        super().__init__(log)
        self.name = name
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self.is_as_usual = True
        self.environment = {**environment, f"{name.upper()}_PORT": str(self.port)}
        self._tls: ssl.SSLContext | None = None
        if tls is not None:
            self._tls = certificate_of("operator", tls).client
            files = {"CERTIFICATE": f"{name}.crt", "KEY": f"{name}.key", "CA": "ca.crt"}
            self.environment |= {f"{name.upper()}_TLS_{kind}": str(tls / file) for kind, file in files.items()}

    def start(self, **settings: str) -> Self:
        """Start it with further environment variables, and wait until it is ready."""
        self.is_as_usual = not settings
        return self._run(f"{self.name}_service", **{**self.environment, **settings})

    def is_ready(self) -> bool:
        return answers(f"{self.url}/readyz", self._tls)

    def wait_for_end(self, timeout_s: float = 10.0) -> int:
        """The exit code; negative for a signal."""
        return self.process.wait(timeout_s)


class Services:
    """The three services, wired to each other and to the databases of a stack, with further ``settings`` if any, and
    with the certificates in the folder ``tls`` if there is one."""

    def __init__(
        self, database_urls: Mapping[str, str], folder: Path, tls: Path | None = None, /, **settings: str
    ) -> None:
        environment = {f"{name.upper()}_DATABASE_URL": url for name, url in database_urls.items()}
        environment |= FAST_RECOVERY | settings
        self.inventory = ServiceProcess("inventory", environment, folder / "inventory.log", tls)
        self.payment = ServiceProcess("payment", environment, folder / "payment.log", tls)
        environment |= {"ORDER_INVENTORY_URL": self.inventory.url, "ORDER_PAYMENT_URL": self.payment.url}
        self.order = ServiceProcess("order", environment, folder / "order.log", tls)

    @property
    def all(self) -> list[ServiceProcess]:
        return [self.inventory, self.payment, self.order]

    def start(self, **settings: str) -> Self:
        """Start all three, with further environment variables, and wait until they are ready."""
        with ThreadPoolExecutor(len(self.all)) as pool:
            list(pool.map(lambda service: service.start(**settings), self.all))
        return self

    def stop(self) -> None:
        running = [service for service in self.all if service.is_running]
        with ThreadPoolExecutor(len(self.all)) as pool:
            list(pool.map(ServiceProcess.stop, running))
