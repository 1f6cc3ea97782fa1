"""The order and payment services are killed at every point at which they could be, and nothing is lost."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from common.clients import (
    AsyncInventoryClient,
    AsyncOrderClient,
    AsyncPaymentClient,
    NotFound,
    Order,
    OrderStatus,
    PaymentStatus,
    RetryPolicy,
    ServiceError,
)
from common.contracts.orders import FINAL
from tests.conftest import Audit, MakeSku, open_database
from tests.processes import Services
from vv.databases import Databases

ONE_ATTEMPT = RetryPolicy(attempts_max=1)


@pytest.fixture
def healed(services: Services) -> Iterator[None]:
    """Whatever the test killed runs again afterwards, without a crash point."""
    yield
    for service in services.all:
        if not service.is_as_usual and service.process.poll() is None:
            service.kill()
        if service.process.poll() is not None:
            service.start()


async def end_of_only_order(orders: AsyncOrderClient, user_id: str) -> Order:
    """The one order of the user, once it is final."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = [order async for order in orders.list(user_id=user_id)]
        assert len(found) == 1
        if found[0].status in FINAL:
            return found[0]
        await asyncio.sleep(0.05)
    raise AssertionError(f"the order is still {found[0].status}")


@pytest.mark.parametrize(
    ("point", "payment_method", "status"),
    [
        ("created", "tok_ok", OrderStatus.COMPLETED),
        ("stock_taken", "tok_ok", OrderStatus.COMPLETED),
        ("inventory_reserved", "tok_timeout", OrderStatus.COMPLETED),
        ("charged", "tok_ok", OrderStatus.COMPLETED),
        ("failing", "tok_declined", OrderStatus.FAILED),
        ("stock_released", "tok_declined", OrderStatus.FAILED),
    ],
)
@pytest.mark.usefixtures("healed")
async def test_order_ends_after_a_kill_at(
    point: str,
    payment_method: str,
    status: OrderStatus,
    services: Services,
    inventory: AsyncInventoryClient,
    payments: AsyncPaymentClient,
    make_sku: MakeSku,
    audit_books: Audit,
) -> None:
    """An order whose service is killed half-way ends as if nothing had happened: stock and money agree."""
    sku = await make_sku(10)
    services.order.kill()
    services.order.start(ORDER_CRASH_POINT=point)

    async with AsyncOrderClient(services.order.url, retry=ONE_ATTEMPT) as orders:
        with pytest.raises(ServiceError) as lost:
            await orders.create(user_id=sku, sku=sku, quantity=3, total_amount=700, payment_method=payment_method)
        assert not lost.value.is_refusal
        assert services.order.wait_for_end() == -9
        services.order.start()
        order = await end_of_only_order(orders, sku)

    assert order.status is status
    sold = 3 if status is OrderStatus.COMPLETED else 0
    assert (await inventory.get(sku)).quantity == 10 - sold
    payment = await payments.get(order.order_id)
    assert payment.status is (PaymentStatus.CAPTURED if sold else PaymentStatus.DECLINED)
    assert (await audit_books()).violations == []


@pytest.mark.parametrize(("service", "point"), [("order", "stock_taken"), ("payment", "charge_opened")])
@pytest.mark.usefixtures("healed")
async def test_order_ends_although_the_database_clock_was_set_back(
    service: str, point: str, services: Services, migrated: Databases, make_sku: MakeSku, audit_books: Audit
) -> None:
    """A lease of an hour, which a clock that was an hour fast has left behind, keeps nobody from going on."""
    sku = await make_sku(10)
    process = getattr(services, service)
    process.kill()
    process.start(**{f"{service.upper()}_CRASH_POINT": point})

    async with AsyncOrderClient(services.order.url, retry=ONE_ATTEMPT) as orders:
        placing = asyncio.create_task(orders.create(user_id=sku, sku=sku, quantity=3, total_amount=700))
        assert await asyncio.to_thread(process.wait_for_end) == -9
        async with open_database(migrated.migration_urls[service]) as database:
            ahead = f"UPDATE {service}s SET lease_until = NOW(6) + INTERVAL 1 HOUR WHERE lease_until IS NOT NULL"
            assert await database.transaction(lambda tx: tx.execute(ahead)) == 1
        await asyncio.to_thread(process.start)
        await asyncio.gather(placing, return_exceptions=True)
        assert (await end_of_only_order(orders, sku)).status is OrderStatus.COMPLETED
    assert (await audit_books()).violations == []


@pytest.mark.parametrize("point", ["cancelling", "money_returned", "stock_returned"])
@pytest.mark.usefixtures("healed")
async def test_cancellation_ends_after_a_kill_at(
    point: str,
    services: Services,
    inventory: AsyncInventoryClient,
    payments: AsyncPaymentClient,
    make_sku: MakeSku,
    audit_books: Audit,
) -> None:
    """A cancellation that was decided is carried out to its end, once, by whoever comes after the kill."""
    sku = await make_sku(10)
    services.order.kill()
    services.order.start(ORDER_CRASH_POINT=point)

    async with AsyncOrderClient(services.order.url, retry=ONE_ATTEMPT) as orders:
        placed = await orders.create(user_id=sku, sku=sku, quantity=3, total_amount=700)
        with pytest.raises(ServiceError):
            await orders.cancel(placed.order_id)
        assert services.order.wait_for_end() == -9
        services.order.start()
        order = await orders.wait(placed.order_id, timeout_s=30)

    assert order.status is OrderStatus.CANCELLED
    assert (await inventory.get(sku)).quantity == 10
    payment = await payments.get(order.order_id)
    assert (payment.status, payment.refunded_amount) == (PaymentStatus.REFUNDED, 700)
    assert (await audit_books()).violations == []


@pytest.mark.parametrize("point", ["charge_opened", "charged"])
@pytest.mark.usefixtures("healed")
async def test_order_is_charged_once_after_the_payment_service_is_killed_at(
    point: str,
    services: Services,
    orders: AsyncOrderClient,
    payments: AsyncPaymentClient,
    make_sku: MakeSku,
    audit_books: Audit,
) -> None:
    """The order waits until somebody knows whether it was charged, and is charged exactly once."""
    sku = await make_sku(10)
    services.payment.kill()
    services.payment.start(PAYMENT_CRASH_POINT=point)

    placing = asyncio.create_task(orders.create(user_id=sku, sku=sku, total_amount=700))
    assert await asyncio.to_thread(services.payment.wait_for_end) == -9
    await asyncio.to_thread(services.payment.start)
    order = await orders.wait((await placing).order_id, timeout_s=30)

    assert order.status is OrderStatus.COMPLETED
    assert (await payments.get(order.order_id)).status is PaymentStatus.CAPTURED
    assert (await audit_books()).violations == []


@pytest.mark.usefixtures("healed")
async def test_refund_is_made_once_after_the_payment_service_is_killed(
    services: Services,
    orders: AsyncOrderClient,
    payments: AsyncPaymentClient,
    make_sku: MakeSku,
    audit_books: Audit,
) -> None:
    """A refund that the gateway made, but nobody wrote down, is not made again."""
    sku = await make_sku(10)
    placed = await orders.create(user_id=sku, sku=sku, total_amount=700)
    services.payment.kill()
    services.payment.start(PAYMENT_CRASH_POINT="refunded")

    cancelling = asyncio.create_task(orders.cancel(placed.order_id))
    assert await asyncio.to_thread(services.payment.wait_for_end) == -9
    await asyncio.to_thread(services.payment.start)
    await cancelling
    order = await orders.wait(placed.order_id, timeout_s=30)

    assert order.status is OrderStatus.CANCELLED
    assert (await payments.get(order.order_id)).status is PaymentStatus.REFUNDED
    assert (await audit_books()).violations == []


async def test_charge_whose_reply_was_lost_is_found(
    orders: AsyncOrderClient, payments: AsyncPaymentClient, make_sku: MakeSku, audit_books: Audit
) -> None:
    """The gateway charged and its reply got lost: the order is accepted as unknown, and completed after asking."""
    sku = await make_sku(10)
    placed = await orders.create(user_id=sku, sku=sku, total_amount=700, payment_method="tok_timeout")
    assert placed.status is OrderStatus.INVENTORY_RESERVED

    order = await orders.wait(placed.order_id, timeout_s=30)

    assert order.status is OrderStatus.COMPLETED
    assert (await payments.get(order.order_id)).status is PaymentStatus.CAPTURED
    assert (await audit_books()).violations == []


async def test_charge_that_the_gateway_never_makes_fails_the_order(
    orders: AsyncOrderClient, inventory: AsyncInventoryClient, make_sku: MakeSku, audit_books: Audit
) -> None:
    """A gateway that fails and keeps saying that it knows of no charge: in the end nothing was sold or charged."""
    sku = await make_sku(10)
    placed = await orders.create(user_id=sku, sku=sku, total_amount=700, payment_method="tok_error")

    order = await orders.wait(placed.order_id, timeout_s=30)

    assert (order.status, order.reason) == (OrderStatus.FAILED, "payment_declined")
    assert (await inventory.get(sku)).quantity == 10
    assert (await audit_books()).violations == []


@pytest.mark.usefixtures("healed")
async def test_killed_inventory_leaves_no_order_behind(
    services: Services, orders: AsyncOrderClient, inventory: AsyncInventoryClient, make_sku: MakeSku, audit_books: Audit
) -> None:
    """With the inventory service dead an order is accepted, and completed once it is back."""
    sku = await make_sku(10)
    services.inventory.kill()
    placed = await orders.create(user_id=sku, sku=sku, total_amount=700)
    assert placed.status is OrderStatus.CREATED

    services.inventory.start()
    order = await orders.wait(placed.order_id, timeout_s=30)

    assert order.status is OrderStatus.COMPLETED
    assert (await inventory.get(sku)).quantity == 9
    assert (await audit_books()).violations == []


async def test_no_payment_is_found_for_an_order_that_was_never_charged(payments: AsyncPaymentClient) -> None:
    """Asking for a payment that does not exist is NotFound, not an empty success."""
    with pytest.raises(NotFound):
        await payments.get("00000000-0000-7000-8000-000000000000")
