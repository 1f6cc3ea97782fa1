"""One run: stock, load, and whether it adds up."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from common.clients import AsyncInventoryClient
from common.errors import DatabaseUnavailable, ServiceError
from vv.audit import audit
from vv.audit_facts import first_order_id, open_books
from vv.bench import latency, load, measure
from vv.bench.plan import FLOOR, Measurement
from vv.bench.stacks import Stacks
from vv.bench.tally import settled_tally
from vv.errors import Unavailable

_WARM_UP_S = 1
_UNITS = 1_000_000_000
# Orders that were on their way when the load ended, the last ones being finished by recovery (a lease is 12 s).
_SETTLED_WITHIN_S = 60.0
_CREATIONS_AT_ONCE = 64


@dataclass(frozen=True)
class Run:
    """What a run showed.

    :param per_second: replies a second, each of them a completed order that is in the books
    :param latency_ms: quantiles and maximum of the time to a reply
    :param cpu_ms: milliseconds of CPU an order, by process
    :param memory_mb: the most resident memory, by process, in 10^6 bytes
    :param no_result: why the run counts for nothing; None if it counts
    """

    measurement: str
    round: int
    started_at: datetime
    seconds: float
    replies: int
    per_second: float
    latency_ms: Mapping[str, float]
    latencies: Counter[int] = field(repr=False)
    cpu_ms: Mapping[str, float]
    memory_mb: Mapping[str, float]
    no_result: str | None


class Bench:
    """Runs measurements against stacks that are up."""

    def __init__(self, stacks: Stacks, wrk: load.Wrk, seconds: int) -> None:
        self._stacks = stacks
        self._wrk = wrk
        self._seconds = seconds

    async def run(self, wanted: Measurement, round_number: int) -> Run:
        """Warm up, load, count and audit. Raises Unavailable."""
        started_at = datetime.now(UTC)
        # Part of every name, so that no run meets what another one has left.
        tag = secrets.token_hex(4)
        warm_up = load.Orders(f"w{tag}", f"SKU-{tag}", wanted.skus, wanted.lines)
        counted = load.Orders(f"r{tag}", f"SKU-{tag}", wanted.skus, wanted.lines)
        if wanted.server != FLOOR:
            await self._create_stock(wanted.server, counted)
        url, pids = self._stacks.url(wanted.server), self._stacks.pids(wanted.server)
        await self._wrk.run(url, warm_up, connections=wanted.clients, seconds=_WARM_UP_S)

        for pid in pids.values():
            measure.forget_peak_memory(pid)
        before = _cpu_s(pids)
        result = await self._wrk.run(url, counted, connections=wanted.clients, seconds=self._seconds)
        used = {name: spent - before[name] for name, spent in _cpu_s(pids).items()} | {"wrk": result.cpu_s}
        memory_mb = {name: measure.peak_memory_mb(pid) for name, pid in pids.items()}

        no_result = _what_went_wrong(result) or (
            await self._why_not_in_the_books(wanted, counted, result, started_at) if wanted.server != FLOOR else None
        )
        if no_result is None and self._stacks.pids(wanted.server) != pids:
            no_result = "a process died and was started again"
        return Run(
            measurement=wanted.name,
            round=round_number,
            started_at=started_at,
            seconds=result.seconds,
            replies=result.replies,
            per_second=result.per_second,
            latency_ms=latency.summary_ms(result.latencies),
            latencies=result.latencies,
            cpu_ms={name: 1000 * spent / max(1, result.replies) for name, spent in used.items()},
            memory_mb=memory_mb,
            no_result=no_result,
        )

    async def _create_stock(self, stack: str, orders: load.Orders) -> None:
        url = self._stacks.stacks[stack].urls["inventory"]
        slots = asyncio.Semaphore(_CREATIONS_AT_ONCE)
        try:
            async with AsyncInventoryClient(url, timeout_s=60) as inventory:

                async def create(sku: str) -> None:
                    async with slots:
                        await inventory.create(product_id="bench", sku=sku, quantity=_UNITS)

                await asyncio.gather(*map(create, orders.sku_names))
        except ServiceError as error:
            raise Unavailable(f"The stock for a run could not be created: {error.detail}") from error

    async def _why_not_in_the_books(
        self, wanted: Measurement, counted: load.Orders, result: load.Result, started_at: datetime
    ) -> str | None:
        urls = self._stacks.databases(wanted.server).service_urls
        try:
            tally = await settled_tally(
                urls["order"], counted.run, first_order_id(started_at), timeout_s=_SETTLED_WITHIN_S
            )
            if tally.completed != tally.orders:
                return f"of {tally.orders} orders {tally.completed} were completed"
            if tally.taken_up:
                return f"{tally.taken_up} orders were finished by recovery, not by their request"
            if not 0 <= tally.completed - result.replies <= wanted.clients:
                return f"{result.replies} orders were answered, {tally.completed} are in the database"
            async with open_books(urls, started_at) as books:
                report = await audit(books)
        except DatabaseUnavailable as error:
            return f"the books could not be read: {error.detail}"
        if report.violations:
            first = report.violations[0]
            return f"{len(report.violations)} violations in the books, first {first.invariant} of {first.subject}"
        return None


def _what_went_wrong(result: load.Result) -> str | None:
    if result.errors:
        return "not every order was answered with success: " + ", ".join(
            f"{count} {kind} errors" for kind, count in result.errors.items()
        )
    return None if result.replies else "no order was answered"


def _cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    return {name: measure.cpu_s(pid) for name, pid in pids.items()}
