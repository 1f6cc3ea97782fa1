"""A batch with something in it that is refused, or comes twice: each caller gets what is his, as if he were alone."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pymysql
import pytest

from common.batching import Batcher
from common.contracts.inventory import OutOfStock, SkuNotFound, StockChange, StockRequestRolledBack
from common.contracts.orders import OrderStatus
from common.contracts.payments import PaymentStatus
from common.errors import IdempotencyMismatch
from common.versioned import LostRace
from order_service import domain as order_domain
from payment_service import domain as payment_domain
from tests.integration.shop import Shop, batcher, decrease, key_of, new_order, new_payment, together

TOO_LONG = 1406


async def decreases_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    items: list[Any] = [decrease(sku) for sku in await shop.new_skus(16)]
    items[bad] = items[bad].model_copy(update={"request_id": "r" * 129})
    return batcher(shop.stock.decrease), items


async def rollbacks_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    items = [f"{uuid4()}" for _ in range(16)]
    items[bad] = "r" * 129
    return batcher(shop.stock.rollback), items


async def orders_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    items = [new_order() for _ in range(16)]
    items[bad] = new_order(user_id="u" * 65)
    return batcher(shop.orders.accept), items


async def order_moves_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    items = [order_domain.Move(order, (OrderStatus.FAILED,), "why") for order in await shop.new_orders(16)]
    items[bad] = replace(items[bad], reason="r" * 65)
    return batcher(shop.orders.move), items


async def payments_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    items = [new_payment() for _ in range(16)]
    items[bad] = new_payment(currency="EURO")
    return batcher(shop.payments.open), items


async def payment_moves_with(shop: Shop, bad: int) -> tuple[Batcher[Any, Any], list[Any]]:
    payments = await shop.new_payments(16)
    items = [payment_domain.Move(payment, PaymentStatus.DECLINED, "why") for payment in payments]
    items[bad] = replace(items[bad], reason="r" * 65)
    return batcher(shop.payments.move), items


@pytest.mark.parametrize("bad", [0, 7, 15])
@pytest.mark.parametrize(
    "prepare",
    [decreases_with, rollbacks_with, orders_with, order_moves_with, payments_with, payment_moves_with],
    ids=lambda prepare: prepare.__name__,
)
async def test_a_value_that_the_database_refuses_is_refused_alone(
    prepare: Callable[[Shop, int], Awaitable[tuple[Batcher[Any, Any], list[Any]]]], bad: int, shop: Shop
) -> None:
    """Its caller gets the database's error, wherever it stands in the batch; each neighbour gets what is his."""
    shared, items = await prepare(shop, bad)

    async with asyncio.timeout(2):
        outcomes = await together(shared, items)

    refused = outcomes.pop(bad)
    assert isinstance(refused, pymysql.err.DataError), refused
    assert refused.args[0] == TOO_LONG
    assert [key_of(outcome) for outcome in outcomes] == [key_of(item) for n, item in enumerate(items) if n != bad]


async def test_what_can_be_refused_is_refused_before_the_write(shop: Shop) -> None:
    """Every kind of refusal in one batch: each is its own caller's, and the stock is exact."""
    [sku, scarce] = await shop.new_skus(2, quantity=3)
    first, undone = decrease(sku), decrease(sku)
    await shop.stock.rollback([str(undone.request_id)])
    items = [
        *(first, decrease("UNKNOWN"), decrease(scarce, 4), decrease(scarce, 3), decrease(scarce, 1)),
        *(first, first.model_copy(update={"quantity": 2}), undone, decrease(sku)),
    ]

    outcomes = await together(batcher(shop.stock.decrease), items)

    assert [type(outcome) for outcome in outcomes] == [
        *(StockChange, SkuNotFound, OutOfStock, StockChange, OutOfStock),
        *(StockChange, IdempotencyMismatch, StockRequestRolledBack, StockChange),
    ]
    assert outcomes[5] == outcomes[0]
    assert [(await shop.stock.get(each)).quantity for each in (sku, scarce)] == [1, 0]


async def test_of_one_key_the_first_in_the_batch_wins(shop: Shop) -> None:
    """Two orders with one idempotency key, two charges of one order: the later one is shown the earlier one."""
    key = f"{uuid4()}"
    orders = [new_order(), new_order(key), new_order(key), new_order(key, total_amount=7), new_order()]
    accepted = await together(batcher(shop.orders.accept), orders)
    assert [orders.index(next(new for new in orders if new.order_id == one.order_id)) for one in accepted] == [
        *(0, 1, 1, 1, 4)
    ]
    charges = [new_payment(), new_payment(order_id=key), new_payment(order_id=key, amount=7), new_payment()]
    opened = await together(batcher(shop.payments.open), charges)
    assert [one.payment_id for one in opened] == [charges[n].payment_id for n in (0, 1, 1, 3)]
    assert opened[2].amount == 5


async def test_of_two_moves_of_one_order_in_a_batch_the_later_has_lost(shop: Shop) -> None:
    """As if each had a transaction of its own."""
    [order, other] = await shop.new_orders(2)
    moves = [
        order_domain.Move(order, (OrderStatus.CANCELLING,), "asked"),
        order_domain.Move(other, (OrderStatus.INVENTORY_RESERVED,)),
        order_domain.Move(order, (OrderStatus.INVENTORY_RESERVED,)),
    ]
    won, neighbour, lost = await together(batcher(shop.orders.move), moves)
    assert (won.status, neighbour.status) == (OrderStatus.CANCELLING, OrderStatus.INVENTORY_RESERVED)
    assert isinstance(lost, LostRace)


async def test_stock_is_given_out_in_arrival_order(shop: Shop) -> None:
    """Of sixty requests over several batches the first twenty get the twenty units."""
    [sku] = await shop.new_skus(1, quantity=20)
    outcomes = await together(batcher(shop.stock.decrease, max_batch=7), [decrease(sku) for _ in range(60)])
    assert [isinstance(outcome, StockChange) for outcome in outcomes] == [True] * 20 + [False] * 40
    assert [outcome.items[0].quantity for outcome in outcomes[:20]] == [*range(19, -1, -1)]


async def test_of_one_key_the_later_is_shown_the_lines_of_the_first(shop: Shop) -> None:
    """Also when both came in one batch."""
    key = f"{uuid4()}"
    first, later = await together(batcher(shop.orders.accept), [new_order(key, lines=3), new_order(key, lines=3)])
    assert first == later
    assert len(later.lines) == 3
