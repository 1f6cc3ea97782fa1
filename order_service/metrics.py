"""What the order service tells Prometheus about its orders, and about the services that it calls."""

import time
from collections import Counter as Tally
from collections.abc import Awaitable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from common.contracts.inventory import StockChange
from common.contracts.orders import OrderStatus
from common.contracts.payments import Payment, PaymentStatus
from common.errors import ServiceError
from common.telemetry import LATENCY_BUCKETS_S
from common.versioned import LostRace
from order_service.domain import OrderRow

Result = TypeVar("Result")


class Step(StrEnum):
    """The steps of the saga, as the metrics call them."""

    ACCEPT = "accept"
    TAKE_STOCK = "take_stock"
    CHARGE = "charge"
    WRITE = "write"
    RETURN_STOCK = "return_stock"
    RETURN_MONEY = "return_money"


class OrderMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        transitions = Counter("vv_order_transitions", "Orders that reached a status", ["status"], registry=registry)
        self._transitions = {status: transitions.labels(status) for status in OrderStatus}
        durations = Histogram(
            "vv_saga_step_duration_seconds",
            "Time that a step of the saga took, once for all orders that share it, by the best that one of them got: "
            "ok, refused or unknown",
            ["step", "outcome"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        outcomes = Counter(
            "vv_saga_outcomes",
            "Orders that went through a step of the saga, by what became of them there: ok, the status of the payment, "
            "or the code of the error",
            ["step", "outcome"],
            registry=registry,
        )
        self._duration = cache(durations.labels)
        self._outcomes = cache(outcomes.labels)

    def count(self, status: OrderStatus) -> None:
        self._transitions[status].inc()

    async def measured(self, step: Step, call: Awaitable[Result], orders: int = 1) -> Result:
        """Await the call of a step, and record its time and the outcome of each order that shares it."""
        started = time.perf_counter()
        try:
            result = await call
        except Exception as error:
            self._observe(step, started, [error] * orders)
            raise
        self._observe(step, started, result if isinstance(result, list) else [result])
        return result

    def _observe(self, step: Step, started: float, outcomes: Sequence[object]) -> None:
        if not outcomes:
            return
        seconds = time.perf_counter() - started
        tally: Mapping[str, int]
        if _FINE.issuperset(map(type, outcomes)):
            # Mostly all orders fare well, and there are hundreds of them: they are not looked at one by one.
            best, tally = 0, {"ok": len(outcomes)}
        else:
            names = [*map(_name, outcomes)]
            best, tally = min(map(_grade, dict(zip(names, outcomes, strict=True)).values())), Tally(names)
        self._duration(step, _GRADES[best]).observe(seconds)
        for name, orders in tally.items():
            self._outcomes(step, name).inc(orders)


_GRADES = ("ok", "refused", "unknown")
_FINE = {OrderRow, StockChange}


def _grade(outcome: object) -> int:
    if isinstance(outcome, Payment):
        return 2 if outcome.status is PaymentStatus.PENDING else 0
    if isinstance(outcome, ServiceError):
        return 1 if outcome.is_refusal else 2
    return 2 if isinstance(outcome, Exception) else 0


def _name(outcome: object) -> str:
    if isinstance(outcome, Payment):
        return outcome.status
    if isinstance(outcome, ServiceError):
        return outcome.code
    if isinstance(outcome, LostRace):
        return "lost_race"
    return "internal_error" if isinstance(outcome, Exception) else "ok"


class CallMetrics:
    """The calls to other services: what each came to, how long it took, and whether that service is left alone."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Histogram(
            "vv_client_call_duration_seconds",
            "Time of each attempt to call another service, by what it came to: ok, or the code of the error",
            ["callee", "outcome"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._open = Gauge(
            "vv_client_breaker_open",
            "How many workers leave another service alone now, because it only failed",
            ["callee"],
            registry=registry,
            multiprocess_mode="livesum",
        )

    def of(self, callee: str) -> "ServiceCalls":
        return ServiceCalls(callee, self._calls, self._open)


class ServiceCalls:
    """Observes the client of one service."""

    def __init__(self, callee: str, calls: Histogram, is_open: Gauge) -> None:
        # Scrapers like to call what they scrape a service.
        self._calls = cache(lambda outcome: calls.labels(callee, outcome))
        self._open = is_open.labels(callee)

    def attempted(self, outcome: str, seconds: float) -> None:
        self._calls(outcome).observe(seconds)

    def breaker(self, *, is_open: bool) -> None:
        self._open.set(is_open)
