"""The report of a benchmark: tables for people, a document for programs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table

from vv.bench.figures import Value
from vv.bench.runs import Run


def runs_table(runs: Sequence[Run]) -> Table:
    """A line for each measurement: medians over its rounds, the range of its throughput, CPU by process."""
    table = Table(title="Runs: medians over the rounds (least to most)")
    for column in ("measurement", "orders/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU ms an order", "peak MB"):
        table.add_column(column, justify="left" if column in ("measurement", "CPU ms an order") else "right")
    for name, group in by_measurement(runs).items():
        results = [run for run in group if run.no_result is None]
        if not results:
            table.add_row(name, "no result")
            continue
        table.add_row(
            name,
            _with_range([run.per_second for run in results]),
            *(f"{median(run.latency_ms[key] for run in results):.1f}" for key in ("p50", "p99", "p99.9")),
            "  ".join(f"{process} {value:.2f}" for process, value in _medians(results, lambda run: run.cpu_ms).items()),
            "  ".join(f"{value:.0f}" for value in _medians(results, lambda run: run.memory_mb).values()),
        )
    return table


def figures_table(values: Sequence[Value]) -> Table:
    """A line for each figure: its median, its target, and whether it is reached."""
    table = Table(title="Figures: medians over the rounds (least to most)")
    table.add_column("figure")
    for column in ("value", "target", "reached"):
        table.add_column(column, justify="right")
    for value in values:
        numbers = sorted(value.rounds)
        shown = f"{_short(value.median)} ({_short(numbers[0])} to {_short(numbers[-1])}) {value.figure.unit}".strip()
        table.add_row(value.figure.name, shown, value.figure.target, "yes" if value.is_reached else "NO")
    return table


def no_results(runs: Sequence[Run]) -> list[str]:
    """A line for each run that counts for nothing."""
    return [
        f"No result: {run.measurement}, round {run.round}: {run.no_result}."
        for run in runs
        if run.no_result is not None
    ]


def document(runs: Sequence[Run], values: Sequence[Value]) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "figures": [
            {
                "name": value.figure.name,
                "median": value.median,
                "rounds": list(value.rounds),
                "unit": value.figure.unit,
                "target": value.figure.target,
                "reached": value.is_reached,
            }
            for value in values
        ],
        "runs": [{name: value for name, value in asdict(run).items() if name != "latencies"} for run in runs],
    }


def by_measurement(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.measurement, []).append(run)
    return groups


def _medians(runs: Sequence[Run], of: Callable[[Run], Any]) -> dict[str, float]:
    return {name: median(of(run)[name] for run in runs) for name in of(runs[0])}


def _with_range(numbers: Sequence[float]) -> str:
    if len(numbers) == 1:
        return f"{numbers[0]:,.0f}"
    return f"{median(numbers):,.0f} ({min(numbers):,.0f} to {max(numbers):,.0f})"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.2f}"
