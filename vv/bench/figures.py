"""What the runs amount to: the figures, as data, and what each of them should reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from vv.bench.runs import Run

Quantity = Callable[[Run], float]


def per_second(run: Run) -> float:
    return run.per_second


def p50_ms(run: Run) -> float:
    return run.latency_ms["p50"]


def p99_ms(run: Run) -> float:
    return run.latency_ms["p99"]


def p99_over_p50(run: Run) -> float:
    return run.latency_ms["p99"] / run.latency_ms["p50"]


def largest_memory_mb(run: Run) -> float:
    """Of the services; the database is none."""
    return max(size for name, size in run.memory_mb.items() if name != "database")


@dataclass(frozen=True)
class Figure:
    """A quantity of one measurement, divided by that of another if ``over`` names one, and its bound.

    Exactly one of ``at_least`` and ``at_most`` is set.
    """

    name: str
    quantity: Quantity
    of: str
    over: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def measurements(self) -> list[str]:
        return [self.of, *([self.over] if self.over else [])]

    @property
    def target(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


@dataclass(frozen=True)
class Value:
    """A figure as it came out: in each round that has a result, and their median."""

    figure: Figure
    rounds: Sequence[float]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def is_reached(self) -> bool:
        figure = self.figure
        if figure.at_least is not None:
            return self.median >= figure.at_least
        assert figure.at_most is not None
        return self.median <= figure.at_most


FIGURES: Sequence[Figure] = (
    Figure("orders/s with group commit ÷ without, hot SKU, 256 clients", per_second, "hot_256_on", "hot_256_off", 6),
    Figure("orders/s with group commit ÷ without, hot SKU, 64 clients", per_second, "hot_64_on", "hot_64_off", 4),
    Figure("orders/s of a hot SKU ÷ of 1,000 SKUs, 256 clients", per_second, "hot_256_on", "spread_256_on", 1),
    Figure("orders/s ÷ requests/s of the empty handler, 256 clients", per_second, "hot_256_on", "floor_256", 0.5),
    Figure("latency of one order alone, with group commit ÷ without", p50_ms, "alone_on", "alone_off", at_most=1),
    Figure("p99 at half of peak, open loop", p99_ms, "half_of_peak_on", at_most=30, unit="ms"),
    Figure("p99 ÷ p50 at half of peak, open loop", p99_over_p50, "half_of_peak_on", at_most=5),
    Figure("orders/s, gateway at 500 ms ÷ at 0, 1,000 clients", per_second, "hot_1000_gateway", "hot_1000_on", 0.6),
    Figure("orders/s, full tables ÷ empty tables, 256 clients", per_second, "hot_256_full", "hot_256_on", 0.9),
    Figure("orders/s, 10 % traced ÷ not traced, 256 clients", per_second, "hot_256_traced", "hot_256_on", 0.95),
    Figure("peak memory of a service, 1,000 clients", largest_memory_mb, "hot_1000_on", at_most=120, unit="MB"),
)


def values(runs: Sequence[Run]) -> list[Value]:
    """Every figure for which there is a round in which all that it needs has a result."""
    results = {(run.round, run.measurement): run for run in runs if run.no_result is None}
    rounds = sorted({round_number for round_number, _ in results})
    found = []
    for figure in FIGURES:
        of_rounds = [
            _value(figure, [results[number, name] for name in figure.measurements])
            for number in rounds
            if all((number, name) in results for name in figure.measurements)
        ]
        if of_rounds:
            found.append(Value(figure, of_rounds))
    return found


def _value(figure: Figure, runs: Sequence[Run]) -> float:
    top, *bottom = map(figure.quantity, runs)
    return top / bottom[0] if bottom else top
