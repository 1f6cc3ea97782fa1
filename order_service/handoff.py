"""Orders that nobody can drive on just now are handed off: to whoever moved them meanwhile, or to recovery."""

import contextlib

from common.batching import as_outcome
from common.errors import ServiceError
from common.recovery import backoff_s
from common.telemetry import log
from common.versioned import LostRace
from order_service.domain import OrderRow
from order_service.orders import Orders
from order_service.settings import Settings


class StillUnknown(Exception):
    """The remote call of ``step`` has no definite outcome yet; ``error`` is why, if it is not just slow."""

    def __init__(self, step: str, error: ServiceError | None = None) -> None:
        super().__init__(step)
        self.step = step
        self.error = error


class Handoff:
    def __init__(self, orders: Orders, settings: Settings) -> None:
        self._orders = orders
        self._first_s = settings.retry_first_s
        self._most_s = settings.retry_most_s

    async def leave(self, order: OrderRow, why: Exception) -> OrderRow:
        """Stop driving an order. Returns it as far as it is known."""
        if isinstance(why, LostRace):
            with contextlib.suppress(ServiceError):
                return await self._orders.get(order.order_id)
        elif isinstance(why, StillUnknown):
            await self._postpone(order, why)
        else:
            # Our own database: the lease runs out and recovery goes on.
            error = as_outcome(why)
            log.warning("order_left_to_recovery", order_id=order.order_id, code=error.code)
        return order

    async def _postpone(self, order: OrderRow, unknown: StillUnknown) -> None:
        delay_s = backoff_s(order.attempts + 1, self._first_s, self._most_s)
        log.warning(
            "order_unknown",
            order_id=order.order_id,
            step=unknown.step,
            cause=unknown.error.code if unknown.error else "pending",
            next_in_s=delay_s,
        )
        # If this fails, too, the lease runs out by itself.
        with contextlib.suppress(ServiceError):
            await self._orders.postpone(order, delay_s)
