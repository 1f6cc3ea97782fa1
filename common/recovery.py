"""Takes up what was left unfinished, and drives it through the same code as requests do."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import structlog
from uuid_utils import uuid7

from common import context, tracing
from common.errors import ServiceError
from common.telemetry import Metrics, log


class Recoverable(Protocol):
    @property
    def order_id(self) -> str: ...
    @property
    def status(self) -> Any: ...


R = TypeVar("R", bound=Recoverable)

# Enough to empty a queue quickly, few enough that the rest of the service is not crowded out.
_ITEMS_AT_ONCE = 64
_LEASE_PLAUSIBLE_S = 600.0


@dataclass(frozen=True)
class Claimed(Generic[R]):
    """What recovery took up, and the trace context in which each of them began (by order id)."""

    items: Sequence[R]
    traces: Mapping[str, str]


class Recovery(Generic[R]):
    """``claim(limit)`` takes items whose lease has run out away from their drivers, ``advance`` drives one of them."""

    def __init__(
        self,
        name: str,
        claim: Callable[[int], Awaitable[Claimed[R]]],
        advance: Callable[[R], Awaitable[R]],
        metrics: Metrics,
    ) -> None:
        self._name = name
        self._claim = claim
        self._advance = advance
        self._metrics = metrics

    async def run_once(self, limit: int) -> Counter[str]:
        """Take up to ``limit`` items; count them by the status in which this left them."""
        claimed = await self._claim(limit)
        return Counter(await asyncio.gather(*(self._take_up(item, claimed.traces) for item in claimed.items)))

    async def run(self, interval_s: float) -> None:
        """Recover for ever, looking every ``interval_s`` seconds; an item that takes long holds up no other."""
        running: set[asyncio.Task[str]] = set()
        try:
            while True:
                for item, traces in await self._look(_ITEMS_AT_ONCE - len(running)):
                    task = asyncio.create_task(self._take_up(item, traces))
                    running.add(task)
                    task.add_done_callback(running.discard)
                if len(running) == _ITEMS_AT_ONCE:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                else:
                    # Jitter keeps several processes from asking in step.
                    await asyncio.sleep(interval_s * random.uniform(0.5, 1.5))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _look(self, limit: int) -> list[tuple[R, Mapping[str, str]]]:
        if limit <= 0:
            return []
        try:
            claimed = await self._claim(limit)
        except ServiceError as error:
            log.warning("recovery_postponed", task=self._name, code=error.code)
            return []
        except Exception:
            log.exception("recovery_failed", task=self._name)
            return []
        return [(item, claimed.traces) for item in claimed.items]

    async def _take_up(self, item: R, traces: Mapping[str, str]) -> str:
        context.request_id.set(str(uuid7()))
        context.trace_context.set(traces.get(item.order_id))
        with (
            structlog.contextvars.bound_contextvars(order_id=item.order_id),
            tracing.span(f"recover {self._name}", attributes={"vv.order_id": item.order_id}),
        ):
            status = str(item.status)
            try:
                status = str((await self._advance(item)).status)
                log.info("recovered", task=self._name, status=status)
            except ServiceError as error:
                # It keeps its lease, and is taken up again when that has run out.
                log.warning("recovery_postponed", task=self._name, code=error.code)
            except Exception:
                log.exception("recovery_failed", task=self._name)
            self._metrics.recovered.labels(status).inc()
            return status


def longest_lease_s(lease_s: float, retry_most_s: float) -> float:
    """Seconds that no lease can last: one that seems to was written before the database's clock was set back.

    Other processes may have other settings than this one, so there is room for leases much longer than its own.
    """
    return max(_LEASE_PLAUSIBLE_S, 2 * max(lease_s, retry_most_s))


def backoff_s(attempt: int, first_s: float, most_s: float) -> float:
    """Seconds to wait after the ``attempt``-th attempt (from 1): doubling from ``first_s`` up to ``most_s``.

    Up to a quarter less at random, so that what failed together does not come back together.
    """
    return min(most_s, first_s * 2.0 ** min(attempt - 1, 30)) * random.uniform(0.75, 1)
