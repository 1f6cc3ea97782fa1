"""Latencies as a histogram: microseconds -> how often they were seen."""

from collections import Counter
from collections.abc import Iterable, Mapping

Histogram = Mapping[int, int]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def histogram(numbers: Iterable[int]) -> Counter[int]:
    """Out of the numbers of a script: a latency, how often, the next latency, …"""
    each = iter(numbers)
    return Counter(dict(zip(each, each, strict=True)))


def uncorrected(said: Histogram, requests: int, connections: int, duration_us: int) -> Counter[int]:
    """What was measured, out of the histogram of wrk 4, which adds latencies that it believes to have missed.

    For each latency of at least twice the mean interval between the requests of a connection wrk adds, at the end of a
    run, further ones an interval apart. That can be undone exactly: from above, for they are added below only.
    """
    if sum(said.values()) == requests or requests < connections:
        return Counter(said)
    interval = duration_us // (requests // connections)
    added: Counter[int] = Counter()
    measured: Counter[int] = Counter()
    for latency in sorted(said, reverse=True):
        times = said[latency] - added[latency]
        if times == 0:
            continue
        measured[latency] = times
        if latency >= 2 * interval:
            for guess in range(latency - interval, interval, -interval):
                added[guess] += times
    return measured


def merged(histograms: Iterable[Histogram]) -> Counter[int]:
    """All that several histograms have."""
    total: Counter[int] = Counter()
    for histogram in histograms:
        total.update(histogram)
    return total


def quantile_ms(histogram: Histogram, quantile: float) -> float:
    """The least latency that at least the share ``quantile`` does not exceed; NaN of nothing."""
    wanted = quantile * sum(histogram.values())
    seen = 0
    for latency in sorted(histogram):
        seen += histogram[latency]
        if seen >= wanted:
            return latency / 1000
    return float("nan")


def summary_ms(histogram: Histogram) -> dict[str, float]:
    """The usual quantiles and the maximum."""
    quantiles = {name: quantile_ms(histogram, quantile) for name, quantile in QUANTILES.items()}
    return quantiles | {"max": max(histogram, default=0) / 1000}
