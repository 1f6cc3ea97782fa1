"""What the payment service tells Prometheus about its gateway."""

import time
from collections.abc import Awaitable
from functools import cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Histogram

from common.telemetry import LATENCY_BUCKETS_S
from payment_service.gateway import ChargeResult, Gateway

T = TypeVar("T")


class MeasuredGateway:
    """A gateway whose calls are measured: how long each took, and what it came to.

    Whoever gives up waiting cancels the call, which counts as ``unknown`` like any other that decided nothing.
    """

    def __init__(self, gateway: Gateway, registry: CollectorRegistry) -> None:
        self._gateway = gateway
        calls = Histogram(
            "vv_gateway_call_duration_seconds",
            "Time of each call to the payment gateway, by what it came to: approved, declined, cancelled, not_found, "
            "done (a refund) or unknown",
            ["call", "outcome"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._series = cache(calls.labels)

    async def charge(
        self, key: str, *, amount: int, currency: str, payment_method: str, reference: str
    ) -> ChargeResult:
        call = self._gateway.charge(
            key, amount=amount, currency=currency, payment_method=payment_method, reference=reference
        )
        return await self._measured("charge", call)

    async def find(self, key: str) -> ChargeResult | None:
        return await self._measured("find", self._gateway.find(key), nothing="not_found")

    async def cancel(self, key: str) -> ChargeResult:
        return await self._measured("cancel", self._gateway.cancel(key))

    async def refund(self, key: str, *, charge_key: str, amount: int, currency: str) -> None:
        call = self._gateway.refund(key, charge_key=charge_key, amount=amount, currency=currency)
        await self._measured("refund", call, nothing="done")

    async def aclose(self) -> None:
        await self._gateway.aclose()

    async def _measured(self, name: str, call: Awaitable[T], nothing: str = "unknown") -> T:
        """What a call answers; ``nothing`` is what it came to if that is None."""
        started = time.perf_counter()
        outcome = "unknown"
        try:
            result = await call
            outcome = result.status.value if isinstance(result, ChargeResult) else nothing
            return result
        finally:
            self._series(name, outcome).observe(time.perf_counter() - started)
