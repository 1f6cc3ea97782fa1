"""What a run found: a document that survives its process, and can be added to others."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.harness.violation import Violation


@dataclass
class Result:
    """The findings of one run.

    :param inflicted: faults by name, ``hit``: those that truly hit something, ``hits``: how often each did
    :param outcomes: operations by what came of them
    :param unknown: orders whose buyer never heard the end, by what they turned out to be
    :param unfinished_s: seconds from accepted, or cancelled, to final, one for each time that an order was on its way
    :param recovered_s: seconds from the end of the last fault to final, of each order that was unfinished then
    :param settled_s: seconds from the end of the last fault until nothing was unfinished
    """

    seed: int
    command: str
    orders: int = 0
    orders_by_status: Counter[str] = field(default_factory=Counter)
    inflicted: Counter[str] = field(default_factory=Counter)
    hit: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    audits: int = 0
    unfinished_s: list[float] = field(default_factory=list)
    recovered_s: list[float] = field(default_factory=list)
    settled_s: float = 0.0
    took_s: float = 0.0
    violations: list[Violation] = field(default_factory=list)
    folder: str | None = None

    @property
    def is_clean(self) -> bool:
        return not self.violations

    def save(self, path: Path) -> None:
        document = vars(self) | {"violations": [asdict(one) for one in self.violations]}
        path.write_text(json.dumps(document), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Result":
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        counters = ("orders_by_status", "inflicted", "hit", "hits", "outcomes", "unknown")
        document |= {name: Counter(document[name]) for name in counters}
        return cls(**document | {"violations": [Violation(**one) for one in document["violations"]]})
