"""The report of a benchmark: tables for people, a document for programs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from rich.table import Table

from vv.bench.figures import Value, values
from vv.bench.runs import Run

RUNS = "Runs: medians over the rounds (least to most)"
PROCESSES = "Processes: milliseconds of CPU an order, and the most memory"
FIGURES = "Figures: medians over the rounds (least to most)"
_LEFT = ("measurement", "figure")
_QUANTILES = ("p50", "p99", "p99.9")


@dataclass(frozen=True)
class Report:
    """All that a benchmark found.

    :param checked: how it is known that what was answered is true, in a sentence
    :param command: what was typed
    :param settings: variables of the environment that made the services differ from their defaults
    :param filled: finished orders in the tables of the full stack; None if there was none
    """

    runs: Sequence[Run]
    checked: str
    command: str
    machine: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)
    filled: int | None = None

    @property
    def values(self) -> list[Value]:
        return values(self.runs)

    @property
    def no_results(self) -> list[str]:
        """A sentence for each run that counts for nothing."""
        return [
            f"No result: {run.measurement}, round {run.round}: {run.no_result}."
            for run in self.runs
            if run.no_result is not None
        ]

    def document(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "command": self.command,
            "checked": self.checked,
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "filled": self.filled,
            "figures": [_figure_document(value) for value in self.values],
            "medians": {name: medians(runs) for name, runs in by_measurement(self.runs).items()},
            "runs": [_run_document(run) for run in self.runs],
        }


# A header, and a row of cells for each line.
Grid = tuple[list[str], list[list[str]]]


def runs_grid(runs: Sequence[Run]) -> Grid:
    """A line for each measurement: medians over its rounds, and the range of its throughput."""
    rows = []
    for name, group in by_measurement(runs).items():
        found = medians(group)
        if not found:
            rows.append([name, "no result", *[""] * len(_QUANTILES)])
            continue
        throughput = _with_range([run.per_second for run in group if run.no_result is None])
        rows.append([name, throughput, *(f"{found['latency_ms'][key]:.1f}" for key in _QUANTILES)])
    return ["measurement", "a second", *(f"{key} ms" for key in _QUANTILES)], rows


def processes_grid(runs: Sequence[Run]) -> Grid:
    """A line for each measurement: what each process took, as medians over the rounds."""
    found = {name: medians(group) for name, group in by_measurement(runs).items()}
    processes = list(dict.fromkeys(process for each in found.values() for process in each.get("cpu_ms", ())))
    rows = []
    for name, each in found.items():
        cpu_ms, memory_mb = each.get("cpu_ms", {}), each.get("memory_mb", {})
        cells = [f"{cpu_ms[process]:.2f}" if process in cpu_ms else "" for process in processes]
        with_memory = zip(cells, (memory_mb.get(process) for process in processes), strict=True)
        rows.append([name, *(cell if size is None else f"{cell}, {size:.0f} MB" for cell, size in with_memory)])
    return ["measurement", *processes], rows


def figures_grid(found: Sequence[Value]) -> Grid:
    """A line for each figure: its median with its range, its target, and whether it is reached."""
    rows = []
    for value in found:
        least, most = min(value.rounds), max(value.rounds)
        range_ = "" if len(value.rounds) == 1 else f" ({_short(least)} to {_short(most)})"
        shown = f"{_short(value.median)}{range_} {value.figure.unit}".strip()
        rows.append([value.figure.name, shown, value.figure.target, "yes" if value.is_reached else "no"])
    return ["figure", "value", "target", "reached"], rows


def table(title: str, grid: Grid) -> Table:
    """For the terminal."""
    header, rows = grid
    drawn = Table(title=title, title_justify="left")
    for name in header:
        drawn.add_column(name, justify="left" if name in _LEFT else "right")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def by_measurement(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each measurement, in the order in which they were first made."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.measurement, []).append(run)
    return groups


def medians(runs: Sequence[Run]) -> dict[str, Any]:
    """The medians over those runs that count; nothing when none does."""
    results = [run for run in runs if run.no_result is None]
    if not results:
        return {}
    return {
        "per_second": median(run.per_second for run in results),
        "latency_ms": _medians_of(results, lambda run: run.latency_ms),
        "cpu_ms": _medians_of(results, lambda run: run.cpu_ms),
        "memory_mb": _medians_of(results, lambda run: run.memory_mb),
    }


def _medians_of(runs: Sequence[Run], of: Callable[[Run], Mapping[str, float]]) -> dict[str, float]:
    found = [of(run) for run in runs]
    return {name: median(each[name] for each in found) for name in found[0]}


def _run_document(run: Run) -> dict[str, Any]:
    said = {name: value for name, value in asdict(run).items() if name != "latencies"}
    return said | {"per_second": run.per_second, "latency_ms": run.latency_ms, "cpu_ms": run.cpu_ms}


def _figure_document(value: Value) -> dict[str, Any]:
    return {
        "name": value.figure.name,
        "median": value.median,
        "rounds": list(value.rounds),
        "unit": value.figure.unit,
        "target": value.figure.target,
        "reached": value.is_reached,
    }


def _with_range(numbers: Sequence[float]) -> str:
    middle = f"{median(numbers):,.0f}"
    return middle if len(numbers) == 1 else f"{middle} ({min(numbers):,.0f} to {max(numbers):,.0f})"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.2f}"
