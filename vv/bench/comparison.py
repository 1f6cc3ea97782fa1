"""Two versions under the same loads, in turns: what the one's results are, divided by the other's of the same round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from vv.bench.plan import FLOOR

# The document of ``vv bench --json``, of one round.
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Compared:
    """A measurement in the rounds in which both versions have a result; lists go by these rounds."""

    measurement: str
    base_per_second: Sequence[float]
    head_per_second: Sequence[float]
    base_p99_ms: Sequence[float]
    head_p99_ms: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """Orders a second, head ÷ base."""
        return [head / base for head, base in zip(self.head_per_second, self.base_per_second, strict=True)]

    def is_slower(self, least_ratio: float) -> bool:
        """Whether head falls short, and no round says otherwise: a runner is too noisy to believe less."""
        return median(self.ratios) < least_ratio and max(self.ratios) < 1

    def document(self) -> dict[str, Any]:
        return {
            "measurement": self.measurement,
            "base_per_second": list(self.base_per_second),
            "head_per_second": list(self.head_per_second),
            "ratios": self.ratios,
            "ratio": median(self.ratios),
            "base_p99_ms": median(self.base_p99_ms),
            "head_p99_ms": median(self.head_p99_ms),
        }


def compared(rounds: Sequence[tuple[Document, Document]]) -> list[Compared]:
    """The documents of base and head, round by round, as comparisons of what both have measured."""
    pairs: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for base, head in rounds:
        found = _results(base)
        for name, result in _results(head).items():
            if name in found:
                pairs.setdefault(name, []).append((found[name], result))
    return [
        Compared(
            name,
            [base["per_second"] for base, _ in both],
            [head["per_second"] for _, head in both],
            [base["latency_ms"]["p99"] for base, _ in both],
            [head["latency_ms"]["p99"] for _, head in both],
        )
        for name, both in pairs.items()
    ]


def no_results(rounds: Sequence[tuple[Document, Document]]) -> list[str]:
    """A sentence for each run that counts for nothing."""
    return [
        f"No result: {run['measurement']} of {version}, round {number}: {run['no_result']}."
        for number, documents in enumerate(rounds, 1)
        for version, document in zip(("base", "head"), documents, strict=True)
        for run in document["runs"]
        if run["no_result"] is not None
    ]


def slower(found: Sequence[Compared], least_ratio: float) -> list[str]:
    """The measurements in which head falls short. The empty handler, which is the same code, only shows the noise."""
    return [
        one.measurement for one in found if not one.measurement.startswith(f"{FLOOR}_") and one.is_slower(least_ratio)
    ]


def markdown(found: Sequence[Compared], least_ratio: float) -> list[str]:
    """A table, for a page or a comment."""
    lines = [
        "| measurement | base a second | head a second | head ÷ base (least to most) | p99 ms, base | head | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    short = slower(found, least_ratio)
    for one in found:
        ratios = one.ratios
        cells = [
            one.measurement,
            f"{median(one.base_per_second):,.0f}",
            f"{median(one.head_per_second):,.0f}",
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{median(one.base_p99_ms):.1f}",
            f"{median(one.head_p99_ms):.1f}",
            "**slower**" if one.measurement in short else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _results(document: Document) -> dict[str, Mapping[str, Any]]:
    return {run["measurement"]: run for run in document["runs"] if run["no_result"] is None}
