"""Whose an order and a payment is: for an owner there are none but his own."""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pymysql
import pytest
from pydantic import SecretStr
from uuid_utils import uuid7

from common.batching import Batcher
from common.clients import AsyncInventoryClient, AsyncPaymentClient
from common.contracts.orders import CreateOrder, OrderNotFound, OrderStatus
from common.contracts.payments import CreatePayment, PaymentNotFound, PaymentStatus, RefundPayment
from common.crash_points import crash_points
from common.database_url import parse_database_url
from common.errors import NotFound
from common.telemetry import Metrics
from order_service.checkout import Checkout
from order_service.domain import NewOrder
from order_service.handoff import Handoff
from order_service.metrics import OrderMetrics
from order_service.orders import Orders
from order_service.purchase import Purchases
from order_service.settings import Settings as OrderSettings
from payment_service.charges import Batches, Charges
from payment_service.payments import Payments
from payment_service.sandbox import SandboxGateway
from payment_service.settings import Settings as PaymentSettings
from tests.conftest import open_database

# None of these is "ann", however alike some of them look.
OTHERS = ["bob", "Ann", "ann ", "", "ann%", "0"]
AT_ONCE_S = 0.8


@dataclass
class Shop:
    """The use cases of orders and payments, as their services have them."""

    orders: Orders
    checkout: Checkout
    payments: Payments
    charges: Charges

    async def new_order(self, user_id: str) -> str:
        """Accepted, and left at that."""
        wanted = CreateOrder(user_id=user_id, sku="S", quantity=1, total_amount=5)
        [order] = await self.orders.accept([NewOrder.of(str(uuid7()), user_id, wanted, None)])
        return order.order_id

    async def new_payment(self, user_id: str | None) -> str:
        """Captured; the order that it is for."""
        order_id = str(uuid7())
        payment = await self.charges.charge(CreatePayment(order_id=order_id, amount=5, user_id=user_id))
        assert payment.status is PaymentStatus.CAPTURED
        return order_id


@pytest.fixture
async def shop(
    urls: dict[str, str], inventory: AsyncInventoryClient, payments: AsyncPaymentClient
) -> AsyncIterator[Shop]:
    metrics = Metrics("test")
    async with open_database(urls["order"]) as order, open_database(urls["payment"]) as payment:
        order_settings = OrderSettings(database_url=SecretStr(urls["order"]), port=1)
        order_metrics = OrderMetrics(metrics.registry)
        orders, reached = Orders(order, 60, order_metrics), crash_points(None)
        let_go = Handoff(orders, order_settings)
        purchases = Purchases(orders, inventory, payments, let_go, order_settings, metrics, order_metrics, reached)
        moves = Batcher("move", orders.move, order_settings, metrics)
        checkout = Checkout(
            orders, purchases, moves, inventory, payments, let_go, order_settings, order_metrics, reached
        )

        payment_settings = PaymentSettings(database_url=SecretStr(urls["payment"]), port=1)
        book = Payments(payment, 60)
        batches = Batches(
            open=Batcher("open", book.open, payment_settings, metrics),
            move=Batcher("move", book.move, payment_settings, metrics),
            poll=Batcher("poll", book.poll, payment_settings, metrics),
        )
        gateway = SandboxGateway(payment, payment_settings, metrics)
        yield Shop(orders, checkout, book, Charges(book, batches, gateway, payment_settings, reached))


@contextlib.contextmanager
def held(url: str, table: str, order_id: str) -> Iterator[None]:
    """Somebody else has the row and does not let go of it."""
    with contextlib.closing(pymysql.connect(**parse_database_url(url))) as rival, rival.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table} WHERE order_id = %s FOR UPDATE", (order_id,))
        yield
        rival.rollback()


Use = Callable[[Shop, str, str | None], Awaitable[Any]]

USES_OF_AN_ORDER: dict[str, Use] = {
    "get": lambda shop, order_id, owner: shop.orders.get(order_id, owner=owner),
    "events": lambda shop, order_id, owner: shop.orders.events(order_id, owner=owner),
    "begin_cancel": lambda shop, order_id, owner: shop.orders.begin_cancel(order_id, "cancelled", owner=owner),
    "cancel": lambda shop, order_id, owner: shop.checkout.cancel(order_id, "cancelled", owner=owner),
    # What an order cannot become is told to nobody but its owner.
    "cancel to nonsense": lambda shop, order_id, owner: shop.checkout.cancel(order_id, "bogus", owner=owner),
}
USES_OF_A_PAYMENT: dict[str, Use] = {
    "get": lambda shop, order_id, owner: shop.payments.get(order_id, owner=owner),
    "refund": lambda shop, order_id, owner: shop.charges.refund(RefundPayment(order_id=order_id), owner=owner),
    "refund too much": lambda shop, order_id, owner: shop.charges.refund(
        RefundPayment(order_id=order_id, amount=6), owner=owner
    ),
}


async def refusal(use: Use, shop: Shop, order_id: str, owner: str) -> dict[str, Any]:
    """The problem document, without the id that was asked for."""
    with pytest.raises(NotFound) as refused:
        await use(shop, order_id, owner)
    assert isinstance(refused.value, OrderNotFound | PaymentNotFound)
    problem = refused.value.to_problem()
    return {name: str(value).replace(order_id, "…") for name, value in problem.items()}


@pytest.mark.parametrize("owner", OTHERS)
@pytest.mark.parametrize("use", USES_OF_AN_ORDER.values(), ids=USES_OF_AN_ORDER)
async def test_another_ones_order_does_not_exist(use: Use, owner: str, shop: Shop) -> None:
    """The refusal is, word for word, that of an order that nobody has placed; nothing happens to the order."""
    order_id = await shop.new_order("ann")
    before = await shop.orders.get(order_id)
    assert await refusal(use, shop, order_id, owner) == await refusal(use, shop, str(uuid4()), owner)
    assert await shop.orders.get(order_id) == before
    assert len(await shop.orders.events(order_id)) == 1


@pytest.mark.parametrize(
    ("owner", "payer"), [*itertools.product(OTHERS, ["ann"]), ("ann", None), ("None", None), ("", None)]
)
@pytest.mark.parametrize("use", USES_OF_A_PAYMENT.values(), ids=USES_OF_A_PAYMENT)
async def test_another_ones_payment_does_not_exist(use: Use, owner: str, payer: str | None, shop: Shop) -> None:
    """Nor does one of which nobody said whose it is. The refusal is that of a payment that there is not."""
    order_id = await shop.new_payment(payer)
    before = await shop.payments.get(order_id)
    assert await refusal(use, shop, order_id, owner) == await refusal(use, shop, str(uuid4()), owner)
    assert await shop.payments.get(order_id) == before
    assert await shop.payments.open_refunds(order_id) == []


@pytest.mark.parametrize("owner", ["ann", None])
async def test_ones_own_order_is_as_it_is_for_staff(owner: str | None, shop: Shop) -> None:
    """Who says no owner may see and cancel all of them."""
    order_id = await shop.new_order("ann")
    assert (await shop.orders.get(order_id, owner=owner)).lines == {"S": 1}
    assert len(await shop.orders.events(order_id, owner=owner)) == 1
    assert (await shop.checkout.cancel(order_id, "cancelled", owner=owner)).status is OrderStatus.CANCELLED
    assert (await shop.checkout.cancel(order_id, "cancelled", owner=owner)).status is OrderStatus.CANCELLED


@pytest.mark.parametrize(("owner", "payer"), [("ann", "ann"), (None, "ann"), (None, None)])
async def test_ones_own_payment_is_as_it_is_for_staff(owner: str | None, payer: str | None, shop: Shop) -> None:
    """Who says no owner may see and refund all of them, those that are nobody's included."""
    order_id = await shop.new_payment(payer)
    assert (await shop.payments.get(order_id, owner=owner)).user_id == payer
    refunded = await shop.charges.refund(RefundPayment(order_id=order_id), owner=owner)
    assert (refunded.status, refunded.user_id) == (PaymentStatus.REFUNDED, payer)


@pytest.mark.alone
@pytest.mark.parametrize("use", USES_OF_AN_ORDER.values(), ids=USES_OF_AN_ORDER)
async def test_nobody_waits_for_another_ones_order(use: Use, shop: Shop, urls: dict[str, str]) -> None:
    """An answer that is late because somebody is at work on the order would tell that there is one."""
    order_id = await shop.new_order("ann")
    with held(urls["order"], "orders", order_id):
        began = time.monotonic()
        await refusal(use, shop, order_id, "bob")
        assert time.monotonic() - began < AT_ONCE_S


@pytest.mark.alone
@pytest.mark.parametrize("use", USES_OF_A_PAYMENT.values(), ids=USES_OF_A_PAYMENT)
async def test_nobody_waits_for_another_ones_payment(use: Use, shop: Shop, urls: dict[str, str]) -> None:
    """As with orders."""
    order_id = await shop.new_payment("ann")
    with held(urls["payment"], "payments", order_id):
        began = time.monotonic()
        await refusal(use, shop, order_id, "bob")
        assert time.monotonic() - began < AT_ONCE_S
