"""``vv gateway`` as a real process, started and killed as the tests like, and what its ledger says."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Self

from tests.processes import free_port
from vv.certs import operator_tls

_READY_WITHIN_S = 20.0


class GatewayProcess:
    """A gateway on a port of its own with a ledger in ``folder``, and the certificates in ``tls`` if there are any."""

    def __init__(self, folder: Path, *options: str, tls: Path | None = None) -> None:
        self.ledger = folder / "gateway.ledger"
        self.log = folder / "gateway.log"
        self.port = free_port()
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._options = [*options, *(["--certificates", str(tls)] if tls else [])]
        self._tls = operator_tls(tls) if tls else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "vv", "gateway", "--port", str(self.port), "--ledger", str(self.ledger)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([*command, *self._options], env=os.environ, stdout=log, stderr=log)
        deadline = time.monotonic() + _READY_WITHIN_S
        while not self.is_alive():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return self

    def is_alive(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/livez", timeout=1, context=self._tls) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(20)

    def behave(self, **behaviour: float | bool) -> None:
        """Have it behave otherwise, at once."""
        body = json.dumps(behaviour).encode()
        headers = {"Content-Type": "application/json"}
        wanted = urllib.request.Request(f"{self.url}/behaviour", body, headers, method="PUT")
        with urllib.request.urlopen(wanted, timeout=5, context=self._tls) as reply:
            assert reply.status == 200

    def entries(self) -> list[dict[str, Any]]:
        """The lines of its file."""
        return [json.loads(line) for line in self.ledger.read_text().splitlines()]

    def approved(self, order_id: str) -> Counter[tuple[str, int]]:
        """How often money of the order moved, by kind and amount."""
        return Counter(
            (entry["kind"], entry["amount"])
            for entry in self.entries()
            if entry["status"] == "approved" and entry["charge_key"] == f"{order_id}:charge"
        )
