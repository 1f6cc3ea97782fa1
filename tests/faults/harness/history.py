"""What the buyers asked for and were told: every operation is written down before it is sent, and again after."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Kind(StrEnum):
    ORDER = "order"
    """The first request with its key, or one without a key."""
    REPEAT = "repeat"
    """An order sent again with the same key and body."""
    MISUSE = "misuse"
    """Another order under a key that is known to be taken."""
    READ = "read"
    TIMELINE = "timeline"
    FIND = "find"
    """The orders of a user."""
    CANCEL = "cancel"
    REFUND = "refund"
    TAKE = "take"
    """Stock taken directly, without an order."""
    GIVE_BACK = "give back"
    RESTOCK = "restock"


class Outcome(StrEnum):
    OK = "ok"
    REFUSED = "refused"
    """A definite no: nothing was done."""
    UNKNOWN = "unknown"
    """Nobody said what became of it: a timeout, a reset, garbage, a 5xx, or a 4xx that may be repeated."""


@dataclass
class Operation:
    """One request of a buyer. Times are seconds since the epoch, of this process.

    :param subject: whom it is about: the user who orders, the order that is read, the request that changes stock
    :param status: 0 when there was no whole reply
    """

    n: int
    kind: Kind
    subject: str
    method: str
    path: str
    body: Mapping[str, Any] | None
    key: str | None
    began_at: float
    ended_at: float | None = None
    outcome: Outcome = Outcome.UNKNOWN
    status: int = 0
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def is_refused(self) -> bool:
        return self.outcome is Outcome.REFUSED

    @property
    def order_id(self) -> str | None:
        """The order that the reply names."""
        return self.reply.get("order_id")

    def __str__(self) -> str:
        told = f"{self.status} {self.reply}" if self.status else self.reply.get("error", "no reply")
        key = f" key {self.key}" if self.key else ""
        return f"#{self.n} {self.kind}: {self.method} {self.path}{key} {self.body or ''} -> {self.outcome}: {told}"


class History:
    """The log of a run, in memory and as JSON lines in ``path``, where it survives the run."""

    def __init__(self, path: Path) -> None:
        self.operations: list[Operation] = []
        # A line at a time, so that what was sent is in the file even if this process is killed.
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def close(self) -> None:
        self._file.close()

    def begin(
        self, kind: Kind, subject: str, method: str, path: str, body: Mapping[str, Any] | None, key: str | None
    ) -> Operation:
        """Write down what is about to be sent."""
        operation = Operation(len(self.operations) + 1, kind, subject, method, path, body, key, time.time())
        self.operations.append(operation)
        self._write({name: value for name, value in asdict(operation).items() if name not in _TOLD})
        return operation

    def end(self, operation: Operation, status: int, reply: dict[str, Any]) -> None:
        """Write down what came of it."""
        operation.ended_at, operation.status, operation.reply = time.time(), status, reply
        operation.outcome = outcome_of(status, reply)
        self._write({"n": operation.n} | {name: getattr(operation, name) for name in _TOLD})

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(f"{json.dumps(record)}\n")


_TOLD = ("ended_at", "outcome", "status", "reply")


def outcome_of(status: int, reply: Mapping[str, Any]) -> Outcome:
    """What a reply says for certain, as ``docs/errors.md`` has it."""
    if 200 <= status < 300:
        return Outcome.OK
    is_definite = 400 <= status < 500 and reply.get("retryable") is False
    return Outcome.REFUSED if is_definite else Outcome.UNKNOWN


def load(path: Path) -> list[Operation]:
    """The operations of a log; what was sent and never answered is unknown."""
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        found.setdefault(record["n"], {}).update(record)
    return [
        Operation(**record | {"kind": Kind(record["kind"]), "outcome": Outcome(record.get("outcome", "unknown"))})
        for record in found.values()
    ]


def by_subject(operations: Iterable[Operation], *kinds: Kind) -> dict[str, list[Operation]]:
    """The operations of these kinds, grouped by what they are about, in the order in which they were sent."""
    groups: dict[str, list[Operation]] = {}
    for operation in operations:
        if operation.kind in kinds:
            groups.setdefault(operation.subject, []).append(operation)
    return groups
