"""Everything that a service writes in batches: each prepares as many items as it is told, and gives their write."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import uuid4

from common.contracts.inventory import CreateStock, IncreaseStock
from common.contracts.orders import OrderStatus
from common.contracts.payments import PaymentStatus
from order_service import domain as order_domain
from payment_service import domain as payment_domain
from tests.integration.shop import Shop, decrease, new_order, new_payment

Write = Callable[[], Awaitable[Any]]


async def create(shop: Shop, n: int) -> Write:
    return partial(shop.stock.create, [CreateStock(product_id="p", sku=f"{uuid4()}", quantity=1) for _ in range(n)])


async def decrease_one_sku(shop: Shop, n: int) -> Write:
    [sku] = await shop.new_skus(1)
    return partial(shop.stock.decrease, [decrease(sku) for _ in range(n)])


async def decrease_many_skus(shop: Shop, n: int) -> Write:
    return partial(shop.stock.decrease, [decrease(sku) for sku in await shop.new_skus(n)])


async def decrease_too_much(shop: Shop, n: int) -> Write:
    return partial(shop.stock.decrease, [decrease(sku) for sku in await shop.new_skus(n, quantity=0)])


async def increase(shop: Shop, n: int) -> Write:
    skus = await shop.new_skus(n)
    return partial(shop.stock.increase, [IncreaseStock(sku=sku, quantity=1, request_id=sku) for sku in skus])


async def roll_back(shop: Shop, n: int) -> Write:
    wanted = [decrease(sku) for sku in await shop.new_skus(n)]
    await shop.stock.decrease(wanted)
    return partial(shop.stock.rollback, [str(item.request_id) for item in wanted])


async def roll_back_beforehand(shop: Shop, n: int) -> Write:
    return partial(shop.stock.rollback, [f"{uuid4()}" for _ in range(n)])


async def accept(shop: Shop, n: int) -> Write:
    return partial(shop.orders.accept, [new_order(str(uuid4()), lines=3) for _ in range(n)])


async def move_orders(shop: Shop, n: int) -> Write:
    orders = await shop.new_orders(n)
    reserved = (OrderStatus.INVENTORY_RESERVED,)
    return partial(shop.orders.move, [order_domain.Move(order, reserved) for order in orders])


async def complete_orders(shop: Shop, n: int) -> Write:
    reserved = await (await move_orders(shop, n))()
    both = (OrderStatus.PAID, OrderStatus.COMPLETED)
    return partial(shop.orders.move, [order_domain.Move(order, both) for order in reserved])


async def open_payments(shop: Shop, n: int) -> Write:
    return partial(shop.payments.open, [new_payment() for _ in range(n)])


async def capture(shop: Shop, n: int) -> Write:
    payments = await shop.new_payments(n)
    moves = [payment_domain.Move(payment, PaymentStatus.CAPTURED) for payment in payments]
    return partial(shop.payments.move, moves)


async def promise_refunds(shop: Shop, n: int) -> Write:
    captured = await (await capture(shop, n))()
    moves = [payment_domain.Move(payment, PaymentStatus.REFUNDING, "late", refund=5) for payment in captured]
    return partial(shop.payments.move, moves)


async def charge_at_the_sandbox(shop: Shop, n: int) -> Write:
    def charge() -> Awaitable[Any]:
        return shop.sandbox.charge(
            f"{uuid4()}", amount=1, currency="USD", payment_method="tok_ok", reference="anything"
        )

    return lambda: asyncio.gather(*(charge() for _ in range(n)))
