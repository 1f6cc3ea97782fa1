"""Every method of the client library against the real services, asynchronous and blocking."""

import inspect
from uuid import uuid4

import pytest

from common.clients import (
    AsyncInventoryClient,
    AsyncOrderClient,
    AsyncPaymentClient,
    CreatePayment,
    DecreaseStock,
    IdempotencyMismatch,
    InvalidTransition,
    InventoryClient,
    LedgerKind,
    NotFound,
    Order,
    OrderClient,
    OrderStatus,
    OutOfStock,
    Payment,
    PaymentClient,
    PaymentDeclined,
    PaymentStatus,
    RefundExceedsCharge,
    RollbackStock,
    SkuExists,
    SkuNotFound,
    StockChange,
    StockLine,
    StockRequestRolledBack,
)
from common.clients.blocking import BlockingClient
from common.clients.client import AsyncClient
from tests.conftest import MakeSku
from tests.processes import Services


def new_id() -> str:
    return str(uuid4())


async def test_an_order_from_placing_to_cancelling(
    orders: AsyncOrderClient, payments: AsyncPaymentClient, inventory: AsyncInventoryClient, make_sku: MakeSku
) -> None:
    """create, get, events, wait and cancel speak of the same order, and cancelling twice changes nothing."""
    sku = await make_sku(10)

    order = await orders.create(user_id="ada", items=[StockLine(sku=sku, quantity=2)], total_amount=1999)
    assert order.status is OrderStatus.COMPLETED
    assert await orders.get(order.order_id) == order
    assert await orders.wait(order.order_id, timeout_s=5) == order

    assert (await orders.cancel(order.order_id)).status in (OrderStatus.CANCELLING, OrderStatus.CANCELLED)
    assert (await orders.wait(order.order_id, timeout_s=10)).status is OrderStatus.CANCELLED
    assert (await orders.cancel(order.order_id)).status is OrderStatus.CANCELLED
    timeline = await orders.events(order.order_id)
    assert [event.seq for event in timeline.events] == list(range(1, len(timeline.events) + 1))
    assert (await inventory.get(sku)).quantity == 10
    assert (await payments.get(order.order_id)).refunded_amount == 1999


async def test_errors_arrive_as_the_classes_they_were_raised_as(
    orders: AsyncOrderClient, inventory: AsyncInventoryClient, payments: AsyncPaymentClient, make_sku: MakeSku
) -> None:
    """Also those of the services behind the order service."""
    sku = await make_sku(1)
    key = new_id()
    placed = await orders.create(user_id="ada", sku=sku, total_amount=1, idempotency_key=key)

    with pytest.raises(OutOfStock) as caught:
        await orders.create(user_id="ada", sku=sku, total_amount=1)
    assert caught.value.extra["lines"] == [{"sku": sku, "requested": 1, "available": 0}]
    assert caught.value.request_id
    with pytest.raises(SkuNotFound):
        await orders.create(user_id="ada", sku="no such SKU", total_amount=1)
    with pytest.raises(PaymentDeclined):
        await orders.create(user_id="ada", sku=await make_sku(1), total_amount=1, payment_method="tok_declined")
    with pytest.raises(IdempotencyMismatch):
        await orders.create(user_id="ada", sku=sku, total_amount=2, idempotency_key=key)
    with pytest.raises(NotFound):
        await orders.get(new_id())
    with pytest.raises(SkuExists):
        await inventory.create(product_id="product", sku=sku, quantity=1)
    with pytest.raises(RefundExceedsCharge):
        await payments.refund(order_id=placed.order_id, amount=2)


async def test_a_failed_order_cannot_be_cancelled(orders: AsyncOrderClient, make_sku: MakeSku) -> None:
    """The state machine's refusal names what is allowed."""
    with pytest.raises(OutOfStock) as failed:
        await orders.create(user_id="ada", sku=await make_sku(0), total_amount=1)

    with pytest.raises(InvalidTransition) as caught:
        await orders.cancel(failed.value.extra["order_id"])

    assert "allowed" in caught.value.extra


async def test_a_repeated_key_gives_the_first_order(orders: AsyncOrderClient, make_sku: MakeSku) -> None:
    """The caller's own key makes a call safe to repeat, even by another process."""
    sku, key = await make_sku(10), new_id()

    first, second = [await orders.create(user_id="ada", sku=sku, total_amount=1, idempotency_key=key) for _ in range(2)]

    assert first == second


async def test_pages_of_orders(orders: AsyncOrderClient, make_sku: MakeSku) -> None:
    """A list crosses its pages without losing or repeating an order, newest first."""
    sku, user = await make_sku(10), new_id()
    placed = [await orders.create(user_id=user, sku=sku, total_amount=1) for _ in range(5)]

    found = [order async for order in orders.list(user_id=user, status=OrderStatus.COMPLETED, page_size=2)]

    assert found == placed[::-1]
    assert [order async for order in orders.list(user_id=user, status="failed")] == []


async def test_stock(inventory: AsyncInventoryClient, make_sku: MakeSku) -> None:
    """decrease, increase and rollback take effect once for a request id, and the ledger has a row for each."""
    sku = await make_sku(10)
    request_id = new_id()

    for _ in range(2):
        change = await inventory.decrease(items={sku: 3}, request_id=request_id)
        assert [(item.delta, item.quantity) for item in change.items] == [(-3, 7)]
    await inventory.increase(sku=sku, quantity=5)
    for _ in range(2):
        await inventory.rollback(request_id)
    with pytest.raises(StockRequestRolledBack):
        await inventory.decrease(sku=sku, quantity=3, request_id=request_id)

    assert (await inventory.get(sku)).quantity == 15
    kinds = [entry.kind async for entry in inventory.ledger(sku, page_size=2)]
    assert kinds == [LedgerKind.ROLLBACK, LedgerKind.RESTOCK, LedgerKind.DEDUCT, LedgerKind.CREATE]


async def test_the_skus_of_a_product(inventory: AsyncInventoryClient) -> None:
    """list() gives the stock of each SKU of one product."""
    product = new_id()
    levels = [await inventory.create(product_id=product, sku=new_id(), quantity=n) for n in range(3)]

    assert sorted(await inventory.list(product), key=lambda level: level.quantity) == levels


async def test_batches_of_stock(inventory: AsyncInventoryClient, make_sku: MakeSku) -> None:
    """Each item of a batch has the outcome of its single call, in order."""
    sku, request_id = await make_sku(5), new_id()

    taken, short, unknown = await inventory.decrease_batch(
        [
            DecreaseStock(sku=sku, quantity=4, request_id=request_id),
            DecreaseStock(sku=sku, quantity=4),
            DecreaseStock(sku="no such SKU", quantity=1),
        ]
    )
    [back] = await inventory.rollback_batch([RollbackStock(request_id=request_id)])

    assert isinstance(taken, StockChange)
    assert isinstance(short, OutOfStock)
    assert isinstance(unknown, SkuNotFound)
    assert isinstance(back, StockChange)
    assert back.items[0].quantity == 5


async def test_payments(payments: AsyncPaymentClient) -> None:
    """Charging twice charges once; a refund with the same id happens once; cancelling gives back the rest."""
    order_id, refund_id = new_id(), new_id()

    first, second = [await payments.create(order_id=order_id, amount=100) for _ in range(2)]
    assert first == second == await payments.get(order_id)
    for _ in range(2):
        refunded = await payments.refund(order_id=order_id, amount=30, request_id=refund_id)
        assert refunded.refunded_amount == 30

    assert (await payments.cancel(order_id)).refunded_amount == 100


async def test_batches_of_payments(payments: AsyncPaymentClient) -> None:
    """An outcome is a payment, one that is still unknown included, or its typed error."""
    captured, declined, pending = await payments.create_batch(
        [
            CreatePayment(order_id=new_id(), amount=1),
            CreatePayment(order_id=new_id(), amount=1, payment_method="tok_declined"),
            CreatePayment(order_id=new_id(), amount=1, payment_method="tok_timeout"),
        ]
    )

    assert isinstance(captured, Payment)
    assert captured.status is PaymentStatus.CAPTURED
    assert isinstance(declined, PaymentDeclined)
    assert isinstance(pending, Payment)
    assert pending.status is PaymentStatus.PENDING


async def test_services_are_ready(
    orders: AsyncOrderClient, inventory: AsyncInventoryClient, payments: AsyncPaymentClient
) -> None:
    """ready() asks each service itself."""
    assert [await client.ready() for client in (orders, inventory, payments)] == [True, True, True]


def test_a_script_without_an_event_loop(services: Services) -> None:
    """The blocking clients do the same: place an order, list it, read its money and stock."""
    sku, user = new_id(), new_id()
    with (
        InventoryClient(services.inventory.url) as inventory,
        OrderClient(services.order.url) as orders,
        PaymentClient(services.payment.url) as payments,
    ):
        inventory.create(product_id="product", sku=sku, quantity=3)
        placed: list[Order] = [orders.create(user_id=user, sku=sku, total_amount=5) for _ in range(3)]

        assert list(orders.list(user_id=user, page_size=1)) == placed[::-1]
        assert payments.get(placed[0].order_id).status is PaymentStatus.CAPTURED
        assert len(list(inventory.ledger(sku))) == 4
        with pytest.raises(OutOfStock):
            orders.create(user_id=user, sku=sku, total_amount=5)


@pytest.mark.parametrize("blocking_class", [OrderClient, InventoryClient, PaymentClient])
def test_blocking_clients_have_every_method_with_its_signature(
    blocking_class: type[BlockingClient[AsyncClient]],
) -> None:
    """Nobody forgets the blocking twin of a new method, and help() shows the arguments of both."""
    for name, method in inspect.getmembers(blocking_class.async_class, inspect.isfunction):
        if not name.startswith("_") and name != "close":
            twin = getattr(blocking_class, name)
            assert inspect.signature(twin) == inspect.signature(method)
            assert twin.__doc__ == method.__doc__
