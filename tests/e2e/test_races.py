"""Many buyers at once: nothing is oversold, nobody is charged twice, and nothing comes back as a 5xx."""

import asyncio
import random
from collections import Counter

import aiohttp

from common.clients import (
    AsyncInventoryClient,
    AsyncOrderClient,
    AsyncPaymentClient,
    Order,
    OrderStatus,
    PaymentStatus,
    ServiceError,
)
from tests.conftest import Audit, MakeSku
from tests.processes import Services


async def outcome_of(orders: AsyncOrderClient, **order: object) -> str:
    try:
        return (await orders.create(**order)).status  # type: ignore[arg-type]
    except ServiceError as error:
        return error.code


async def test_two_hundred_buyers_for_fifty_units(
    orders: AsyncOrderClient,
    inventory: AsyncInventoryClient,
    payments: AsyncPaymentClient,
    make_sku: MakeSku,
    audit_books: Audit,
) -> None:
    """Exactly fifty buy, the others are told that nothing is left, and there are fifty charges."""
    sku = await make_sku(50)

    outcomes = Counter(
        await asyncio.gather(*(outcome_of(orders, user_id=f"{sku}-{n}", sku=sku, total_amount=500) for n in range(200)))
    )

    assert outcomes == {OrderStatus.COMPLETED: 50, "out_of_stock": 150}
    assert (await inventory.get(sku)).quantity == 0
    completed = [
        order async for order in orders.list(status=OrderStatus.COMPLETED, page_size=200) if order.items[0].sku == sku
    ]
    charges = await asyncio.gather(*(payments.get(order.order_id) for order in completed))
    assert [(charge.status, charge.amount) for charge in charges] == [(PaymentStatus.CAPTURED, 500)] * 50
    assert (await audit_books()).violations == []


async def test_fifty_posts_with_one_idempotency_key(
    services: Services, orders: AsyncOrderClient, payments: AsyncPaymentClient, make_sku: MakeSku
) -> None:
    """One order and one charge come of them; the others are replays, or told that the first is still running."""
    sku = await make_sku(100)
    body = {"user_id": sku, "sku": sku, "total_amount": 500}

    async with aiohttp.ClientSession() as session:

        async def post() -> tuple[int, bool]:
            async with session.post(
                f"{services.order.url}/orders", json=body, headers={"Idempotency-Key": "the-key"}
            ) as reply:
                return reply.status, reply.headers.get("Idempotent-Replayed") == "true"

        replies = Counter(await asyncio.gather(*(post() for _ in range(50))))
        late = await post()

    assert replies[201, False] == 1
    assert replies[201, True] + replies[409, False] == 49
    assert late == (201, True)
    [order] = [order async for order in orders.list(user_id=sku)]
    assert (await payments.get(order.order_id)).status is PaymentStatus.CAPTURED


async def test_carts_in_opposite_order(
    orders: AsyncOrderClient, inventory: AsyncInventoryClient, make_sku: MakeSku, audit_books: Audit
) -> None:
    """Sixty-four carts at a time that name the same SKUs in opposite order neither deadlock nor fail."""
    skus = [await make_sku(1_000, prefix=letter) for letter in "abc"]
    chance = random.Random(7)

    async def buy(n: int) -> Order:
        cart = skus if n % 2 else skus[::-1]
        return await orders.create(
            user_id=f"{skus[0]}-{n}", items={sku: chance.randint(1, 3) for sku in cart}, total_amount=100
        )

    for _ in range(3):
        bought = await asyncio.gather(*(buy(n) for n in range(64)))
        assert {order.status for order in bought} == {OrderStatus.COMPLETED}

    completed = [
        order
        async for order in orders.list(status=OrderStatus.COMPLETED, page_size=200)
        if order.items[0].sku == skus[0]
    ]
    assert len(completed) == 3 * 64
    for sku in skus:
        sold = sum(line.quantity for order in completed for line in order.items if line.sku == sku)
        assert (await inventory.get(sku)).quantity == 1_000 - sold
    assert (await audit_books()).violations == []


async def test_a_cart_takes_all_or_nothing(
    orders: AsyncOrderClient, inventory: AsyncInventoryClient, make_sku: MakeSku
) -> None:
    """A cart that one SKU cannot fill takes nothing of the others either."""
    plenty, scarce = await make_sku(100), await make_sku(1)

    outcome = await outcome_of(orders, user_id=scarce, items={plenty: 2, scarce: 2}, total_amount=100)

    assert outcome == "out_of_stock"
    assert [(await inventory.get(sku)).quantity for sku in (plenty, scarce)] == [100, 1]


async def test_cancelling_while_buying(
    orders: AsyncOrderClient, inventory: AsyncInventoryClient, make_sku: MakeSku, audit_books: Audit
) -> None:
    """Orders cancelled in the middle of their checkout end cancelled or completed, and the books are exact."""
    sku = await make_sku(100)

    async def buy_and_regret(n: int) -> str:
        user = f"{sku}-{n}"
        buying = asyncio.create_task(outcome_of(orders, user_id=user, sku=sku, total_amount=500))
        await asyncio.sleep(random.Random(n).uniform(0.05, 0.4))
        for order in [order async for order in orders.list(user_id=user)]:
            await orders.cancel(order.order_id)
        await buying
        [order] = [order async for order in orders.list(user_id=user)]
        return (await orders.wait(order.order_id, timeout_s=60)).status

    outcomes = Counter(await asyncio.gather(*(buy_and_regret(n) for n in range(40))))

    assert outcomes.keys() <= {OrderStatus.CANCELLED, OrderStatus.COMPLETED}
    assert (await inventory.get(sku)).quantity == 100 - outcomes[OrderStatus.COMPLETED]
    assert (await audit_books()).violations == []
