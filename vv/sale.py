"""A flash sale: many buyers at once, too little stock, some carts, some declined cards."""

import asyncio
import random
import secrets
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from common.clients import (
    AsyncInventoryClient,
    AsyncOrderClient,
    Order,
    OrderStatus,
    OrderTimeline,
    RetryPolicy,
    ServiceError,
)
from common.contracts.orders import FINAL

UNFINISHED = set(OrderStatus) - FINAL
_PATIENCE_S = 60.0
_ACCEPTED_ENDS_WITHIN_S = 90.0


@dataclass(frozen=True)
class Sale:
    """``buyers`` at once for ``units`` of one SKU; some buy accessories with it, some have a bad card."""

    buyers: int = 1_000
    units: int = 500
    carts: float = 0.1
    bad_cards: float = 0.05
    seed: int = 1


@dataclass
class Result:
    """What happened. ``outcomes`` counts how the orders ended, ``sold`` the units that completed orders hold."""

    units: int
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    sold: int = 0
    stock_left: int = 0
    timeline: OrderTimeline | None = None

    @property
    def orders_per_second(self) -> float:
        return len(self.latencies_s) / self.seconds

    def latency_ms(self, quantile: float) -> float:
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]

    @property
    def adds_up(self) -> bool:
        """Whether every unit is either sold or still there, and every order has ended."""
        return self.sold + self.stock_left == self.units and not self.outcomes.keys() & UNFINISHED


@dataclass(frozen=True)
class _Buyer:
    user_id: str
    items: Mapping[str, int]
    payment_method: str


async def hold(
    sale: Sale, urls: Mapping[str, str], progress: Callable[[], None], tls: ssl.SSLContext | None = None
) -> Result:
    """Hold the sale against the services at ``urls``; ``progress`` is called for each buyer that got an answer.

    Raises ServiceError when the sale cannot be set up.
    """
    tag = secrets.token_hex(3)
    hot, accessories = f"SNEAKER-{tag}", [f"LACES-{tag}", f"SOCKS-{tag}"]
    result = Result(sale.units)
    async with (
        AsyncOrderClient(
            urls["order"],
            timeout_s=_PATIENCE_S,
            # Whoever queues behind a thousand others is not better off for asking again.
            retry=RetryPolicy(attempt_timeout_s=_PATIENCE_S),
            connections_max=sale.buyers,
            tls=tls,
        ) as orders,
        AsyncInventoryClient(urls["inventory"], tls=tls) as inventory,
    ):
        await inventory.create(product_id="flash-sale", sku=hot, quantity=sale.units)
        for sku in accessories:
            await inventory.create(product_id="flash-sale", sku=sku, quantity=sale.buyers)

        started = time.perf_counter()
        crowd = _crowd(sale, hot, accessories)
        bought = await asyncio.gather(*(_buy(orders, buyer, result, progress) for buyer in crowd))
        result.seconds = time.perf_counter() - started

        accepted = await asyncio.gather(*(_end_of(orders, order) for order in bought if order is not None))
        result.outcomes.update(order.status for order in accepted)
        completed = [order for order in accepted if order.status is OrderStatus.COMPLETED]
        result.sold = sum(line.quantity for order in completed for line in order.items if line.sku == hot)
        result.stock_left = (await inventory.get(hot)).quantity
        if completed:
            result.timeline = await orders.events(completed[0].order_id)
    return result


async def _buy(orders: AsyncOrderClient, buyer: _Buyer, result: Result, progress: Callable[[], None]) -> Order | None:
    """The order if it was accepted; a refusal is counted by its code."""
    started = time.perf_counter()
    try:
        return await orders.create(
            user_id=buyer.user_id,
            items=buyer.items,
            total_amount=9_900 + 500 * (len(buyer.items) - 1),
            payment_method=buyer.payment_method,
        )
    except ServiceError as error:
        result.outcomes[error.code] += 1
        return None
    finally:
        result.latencies_s.append(time.perf_counter() - started)
        progress()


async def _end_of(orders: AsyncOrderClient, order: Order) -> Order:
    """The order when it has ended; whoever was answered 202 is driven on by recovery."""
    if order.status is OrderStatus.COMPLETED:
        return order
    try:
        return await orders.wait(order.order_id, timeout_s=_ACCEPTED_ENDS_WITHIN_S)
    except ServiceError:
        return order


def _crowd(sale: Sale, hot: str, accessories: list[str]) -> list[_Buyer]:
    chance = random.Random(sale.seed)
    crowd = []
    for n in range(sale.buyers):
        cart = {hot: 1}
        if chance.random() < sale.carts:
            cart |= dict.fromkeys(accessories, 1)
        method = "tok_declined" if chance.random() < sale.bad_cards else "tok_ok"
        crowd.append(_Buyer(f"buyer-{n}", cart, method))
    return crowd
