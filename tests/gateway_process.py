"""``vv gateway`` as a real process, started and killed as the tests like, and what its ledger says."""

import json
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Self

from tests.processes import ManagedProcess, answers
from vv.certs import operator_tls


class GatewayProcess(ManagedProcess):
    """A gateway on a port of its own with a ledger in ``folder``, and the certificates in ``tls`` if there are any."""

    def __init__(self, folder: Path, *options: str, tls: Path | None = None) -> None:
        super().__init__(folder / "gateway.log")
        self.ledger = folder / "gateway.ledger"
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._options = [*options, *(["--certificates", str(tls)] if tls else [])]
        self._tls = operator_tls(tls) if tls else None

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        return self._run("vv", "gateway", "--port", str(self.port), "--ledger", str(self.ledger), *self._options)

    def is_ready(self) -> bool:
        return answers(f"{self.url}/livez", self._tls)

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
