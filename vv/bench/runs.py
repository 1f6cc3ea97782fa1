"""One run: stock, a warm-up, the load, and whether it adds up."""

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from vv.bench import latency, measure
from vv.bench.load import Orders, Result, Wrk
from vv.bench.plan import Measurement
from vv.bench.targets import Target

_WARM_UP_S = 1
# An open loop whose sender is later than that shows the sender, not the server.
# On a busy core the scheduler lets wrk wait for a slice, 3 ms on Linux. Latencies are counted from when orders were
# due, so what wrk is late by makes them longer, never shorter.
LATE_MS_MAX = 5.0


@dataclass(frozen=True)
class Run:
    """What a run showed.

    :param orders: completed orders, by the database; of a server without one that we know: replies
    :param seconds: from the first order to the last one that was completed; or for how long orders were sent
    :param replies: orders that were answered until the load ended
    :param latencies: microseconds to a reply -> how often
    :param late_ms: how late orders were sent, the 99th percentile; None in a closed loop
    :param rate: orders a second that were to be sent; None in a closed loop
    :param cpu_s: seconds of CPU, by process
    :param memory_mb: the most resident memory, by process, in 10^6 bytes
    :param no_result: why the run counts for nothing; None if it counts
    """

    measurement: str
    round: int
    started_at: datetime
    seconds: float
    orders: int
    replies: int
    latencies: Counter[int] = field(repr=False)
    late_ms: float | None
    rate: float | None
    cpu_s: Mapping[str, float]
    memory_mb: Mapping[str, float]
    no_result: str | None

    @property
    def per_second(self) -> float:
        return self.orders / self.seconds if self.seconds else 0.0

    @property
    def latency_ms(self) -> dict[str, float]:
        return latency.summary_ms(self.latencies)

    @property
    def cpu_ms(self) -> dict[str, float]:
        """Milliseconds of CPU an order, by process."""
        return {name: 1000 * spent / max(1, self.orders) for name, spent in self.cpu_s.items()}


async def make_run(
    target: Target,
    wrk: Wrk,
    wanted: Measurement,
    *,
    number: int,
    seconds: int,
    rate: float | None,
    sku: str | None = None,
) -> Run:
    """Run a measurement in round ``number``; at ``rate`` orders a second, or in a closed loop.

    :param sku: the SKU to order, which is there already; by default one, or many, of the run's own

    Raises Unavailable.
    """
    started_at = datetime.now(UTC)
    # Part of every name, so that no run meets what another one has left.
    tag = secrets.token_hex(4)
    warm_up = Orders(f"w{tag}", sku or f"SKU-{tag}", wanted.skus, wanted.lines)
    counted = replace(warm_up, run=f"r{tag}")
    if sku is None:
        await target.prepare(warm_up)
    await wrk.run(target.url, warm_up, connections=wanted.clients, seconds=_WARM_UP_S, rate=rate)
    await target.settled(warm_up, started_at)

    pids = target.pids()
    for pid in pids.values():
        measure.forget_peak_memory(pid)
    before = measure.cpu_s_of(pids)
    result = await wrk.run(target.url, counted, connections=wanted.clients, seconds=seconds, rate=rate)
    # What was on its way when the load ended was work, too.
    tally = await target.settled(counted, started_at)
    after = measure.cpu_s_of(pids)
    memory_mb = measure.peak_memory_mb_of(pids)

    no_result = _what_went_wrong(result) or await target.why_not(counted, result, tally, started_at, wanted.clients)
    if no_result is None and target.pids() != pids:
        no_result = "a process died and was started again"
    return Run(
        measurement=wanted.name,
        round=number,
        started_at=started_at,
        seconds=result.seconds if tally is None or rate else tally.seconds,
        orders=result.replies if tally is None else tally.completed,
        replies=result.replies,
        latencies=result.latencies,
        late_ms=latency.quantile_ms(result.lateness, 0.99) if rate else None,
        rate=rate,
        cpu_s={name: after[name] - before[name] for name in pids} | {"wrk": result.cpu_s},
        memory_mb=memory_mb,
        no_result=no_result,
    )


def no_run(wanted: Measurement, number: int, why: str) -> Run:
    """In place of a run that could not be made."""
    return Run(wanted.name, number, datetime.now(UTC), 0.0, 0, 0, Counter(), None, None, {}, {}, why)


def merged(slices: Sequence[Run]) -> Run:
    """The slices of a run as one. One slice without a result leaves none."""
    first = slices[0]
    return replace(
        first,
        seconds=sum(one.seconds for one in slices),
        orders=sum(one.orders for one in slices),
        replies=sum(one.replies for one in slices),
        latencies=latency.merged([one.latencies for one in slices]),
        cpu_s={name: sum(one.cpu_s[name] for one in slices) for name in first.cpu_s},
        memory_mb={name: max(one.memory_mb[name] for one in slices) for name in first.memory_mb},
        no_result=next((one.no_result for one in slices if one.no_result), None),
    )


def _what_went_wrong(result: Result) -> str | None:
    if result.errors:
        kinds = ", ".join(f"{count} {kind} errors" for kind, count in result.errors.items())
        return f"not every order was answered with success: {kinds}"
    if result.replies == 0:
        return "no order was answered"
    if result.planned is None:
        return None
    if result.planned != result.replies:
        return f"of {result.planned} orders {result.replies} were answered before the load ended"
    late_ms = latency.quantile_ms(result.lateness, 0.99)
    if late_ms > LATE_MS_MAX:
        return f"the load generator was late, by {late_ms:.1f} ms at the 99th percentile"
    return None
