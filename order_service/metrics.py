"""What the order service tells Prometheus about its orders."""

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge

from common.contracts.orders import OrderStatus
from common.errors import ServiceError
from common.telemetry import log
from order_service.domain import FINAL
from order_service.orders import Orders

_COUNTED_EVERY_S = 5.0


class OrderMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        transitions = Counter("vv_order_transitions", "Orders that reached a status", ["status"], registry=registry)
        self._transitions = {status: transitions.labels(status) for status in OrderStatus}
        self._unfinished = Gauge(
            "vv_orders_unfinished",
            "Orders that are not final yet, by status",
            ["status"],
            registry=registry,
            # Every worker counts all of them.
            multiprocess_mode="livemostrecent",
        )

    def count(self, status: OrderStatus) -> None:
        self._transitions[status].inc()

    async def watch(self, orders: Orders) -> None:
        """Count the unfinished orders every few seconds, for ever."""
        while True:
            try:
                found = await orders.count_unfinished()
                for status in set(OrderStatus) - FINAL:
                    self._unfinished.labels(status).set(found.get(status, 0))
            except ServiceError as error:
                log.warning("orders_not_counted", code=error.code)
            except Exception:
                log.exception("orders_not_counted")
            await asyncio.sleep(_COUNTED_EVERY_S)
