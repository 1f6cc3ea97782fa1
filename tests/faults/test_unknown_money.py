"""Money whose whereabouts nobody knows for a while: cancelled, refunded or repeated in the meantime."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from common.clients import (
    AsyncInventoryClient,
    AsyncOrderClient,
    AsyncPaymentClient,
    OrderStatus,
    PaymentCancelled,
    PaymentStatus,
    RetryPolicy,
    ServiceError,
)
from common.context import DEADLINE_HEADER
from tests.conftest import Audit, MakeSku
from tests.processes import ServiceProcess, Services

SETTLED = {PaymentStatus.VOIDED, PaymentStatus.DECLINED, PaymentStatus.REFUNDED}


@pytest.fixture
def order_id() -> str:
    return f"{uuid4()}"


@pytest.fixture
def own_order_service(services: Services) -> Iterator[Services]:
    """The order service may be stopped; it runs again afterwards."""
    yield services
    if services.order.process.poll() is not None:
        services.order.start()


async def settled(payments: AsyncPaymentClient, order_id: str) -> PaymentStatus:
    """How the payment ends."""
    async with asyncio.timeout(30):
        while (payment := await payments.get(order_id)).status not in SETTLED:
            await asyncio.sleep(0.02)
    return payment.status


async def test_cancelling_settles_at_once_whether_there_was_a_charge(
    payments: AsyncPaymentClient, order_id: str, audit_books: Audit
) -> None:
    """A payment whose charge nobody knows of is voided by the call that cancels it, and by each that repeats it."""
    await payments.create(order_id=order_id, amount=700, payment_method="tok_error")
    for _ in range(3):
        assert (await payments.cancel(order_id)).status is PaymentStatus.VOIDED
    assert (await audit_books()).violations == []


async def test_a_charge_of_which_nobody_heard_is_refunded(
    payments: AsyncPaymentClient, order_id: str, audit_books: Audit
) -> None:
    """Cancelled while the reply of its charge was lost: the gateway is asked, and all of it goes back."""
    await payments.create(order_id=order_id, amount=700, payment_method="tok_timeout")
    await payments.cancel(order_id)
    assert await settled(payments, order_id) is PaymentStatus.REFUNDED
    assert (await audit_books()).violations == []


async def test_a_charge_that_arrives_after_it_was_given_up_is_refused(
    services: Services, order_id: str, audit_books: Audit
) -> None:
    """Cancelled and voided while the gateway still took its time: it does not charge any more."""
    services.payment.stop()
    services.payment.start(PAYMENT_SANDBOX_SLOW_S="2")
    try:
        async with AsyncPaymentClient(services.payment.url, timeout_s=60) as payments:
            charging = asyncio.create_task(payments.create(order_id=order_id, amount=700, payment_method="tok_slow"))
            await asyncio.sleep(0.3)
            assert (await payments.cancel(order_id)).status is PaymentStatus.VOIDED
            with pytest.raises(PaymentCancelled):
                await charging
            ended = await payments.get(order_id)
    finally:
        services.payment.stop()
        services.payment.start()

    assert (ended.status, ended.refunded_amount) == (PaymentStatus.VOIDED, 0)
    assert (await audit_books()).violations == []


async def test_an_unresolved_charge_cannot_be_refunded_yet(services: Services, order_id: str) -> None:
    """Nobody knows whether there is anything to give back: the answer is to come again, not that nothing was."""
    async with AsyncPaymentClient(services.payment.url, retry=RetryPolicy(attempts_max=1)) as payments:
        await payments.create(order_id=order_id, amount=700, payment_method="tok_error")
        with pytest.raises(ServiceError) as unresolved:
            await payments.refund(order_id=order_id)
    assert unresolved.value.code == "payment_unresolved"
    assert not unresolved.value.is_refusal
    assert unresolved.value.retry_after_s


async def test_money_that_went_back_completes_no_order(
    own_order_service: Services,
    inventory: AsyncInventoryClient,
    payments: AsyncPaymentClient,
    make_sku: MakeSku,
    audit_books: Audit,
) -> None:
    """The payment of an order is cancelled behind its back before the order knows of the charge: it fails."""
    sku = await make_sku(10)
    order = own_order_service.order
    async with AsyncOrderClient(order.url, timeout_s=60) as orders:
        placed = await orders.create(user_id=sku, sku=sku, total_amount=700, payment_method="tok_timeout")
        order.kill()
        await payments.cancel(placed.order_id)
        assert await settled(payments, placed.order_id) is PaymentStatus.REFUNDED
        order.start()
        ended = await orders.wait(placed.order_id, timeout_s=30)

    assert (ended.status, ended.reason) == (OrderStatus.FAILED, "payment_cancelled")
    assert (await inventory.get(sku)).quantity == 10
    assert (await audit_books()).violations == []


async def test_an_order_whose_key_somebody_else_used_ends(
    own_order_service: Services,
    inventory: AsyncInventoryClient,
    payments: AsyncPaymentClient,
    make_sku: MakeSku,
) -> None:
    """A payment of another amount under the order's id fails the order; that payment is left alone."""
    sku = await make_sku(10)
    order = own_order_service.order
    own_order_service.payment.stop()
    try:
        async with AsyncOrderClient(order.url, timeout_s=60) as orders:
            placed = await orders.create(user_id=sku, sku=sku, total_amount=700)
            order.kill()
            own_order_service.payment.start()
            foreign = await payments.create(order_id=placed.order_id, amount=1)
            order.start()
            ended = await orders.wait(placed.order_id, timeout_s=30)
    finally:
        if own_order_service.payment.process.poll() is not None:
            own_order_service.payment.start()

    assert (ended.status, ended.reason) == (OrderStatus.FAILED, "idempotency_mismatch")
    assert (await inventory.get(sku)).quantity == 10
    assert (await payments.get(placed.order_id)).amount == foreign.amount == 1
    # Leave clean books behind: this payment belongs to no order's total.
    await payments.refund(order_id=placed.order_id)


@pytest.mark.parametrize("text", ["50%-off", "A%%B", "%s", "%d%", "100%", "';COMMIT;--", '";\\', "a\\';"])
async def test_what_means_something_to_sql_is_text_like_any_other(
    text: str, orders: AsyncOrderClient, inventory: AsyncInventoryClient
) -> None:
    """What is stored is what was sent, in every field that takes text, and a replay finds it again."""
    sku = f"{text}{uuid4().hex[:8]}{text}"
    assert (await inventory.create(product_id=text, sku=sku, quantity=5)).sku == sku
    first = await orders.create(user_id=sku, sku=sku, total_amount=1, idempotency_key=text)
    again = await orders.create(user_id=sku, sku=sku, total_amount=1, idempotency_key=text)
    assert (first.status, first.items[0].sku, again) == (OrderStatus.COMPLETED, sku, first)
    await inventory.increase(sku=sku, quantity=1, request_id=sku)
    assert (await inventory.get(sku)).quantity == 5


@pytest.fixture
def slow_card(services: Services) -> Iterator[None]:
    """``tok_slow`` takes so much longer than callers wait that no busy machine can confuse the two."""
    services.payment.stop()
    services.payment.start(PAYMENT_SANDBOX_SLOW_S="4")
    yield
    services.payment.stop()
    services.payment.start()


@pytest.mark.usefixtures("slow_card")
async def test_an_orders_caller_is_answered_within_the_deadline(
    services: Services, orders: AsyncOrderClient, make_sku: MakeSku
) -> None:
    """Accepted, outcome unknown; it is carried out by the service that accepted it."""
    sku = await make_sku(10)
    body = {"user_id": sku, "sku": sku, "total_amount": 700, "payment_method": "tok_slow"}
    async with (
        aiohttp.ClientSession(services.order.url) as session,
        session.post("/orders", json=body, headers={DEADLINE_HEADER: "2000"}) as reply,
    ):
        answer = await reply.json()
    assert (reply.status, answer["status"] in ("created", "inventory_reserved")) == (202, True)
    assert reply.headers["Location"] == f"/orders/{answer['order_id']}"
    assert (await orders.wait(answer["order_id"], timeout_s=20)).status is OrderStatus.COMPLETED


@pytest.mark.usefixtures("slow_card")
async def test_a_charges_caller_is_answered_within_the_deadline(
    services: Services, payments: AsyncPaymentClient, order_id: str
) -> None:
    """Pending; it is carried out although the gateway takes longer than the caller would wait."""
    body = {"order_id": order_id, "amount": 700, "payment_method": "tok_slow"}
    async with (
        aiohttp.ClientSession(services.payment.url) as session,
        session.post("/payments", json=body, headers={DEADLINE_HEADER: "1000"}) as reply,
    ):
        answer = await reply.json()
    assert (reply.status, answer["status"]) == (202, "pending")
    async with asyncio.timeout(20):
        while (await payments.get(order_id)).status is not PaymentStatus.CAPTURED:
            await asyncio.sleep(0.05)
    # Leave clean books behind: that payment belongs to no order.
    await payments.cancel(order_id)


@pytest.mark.usefixtures("slow_card")
async def test_a_caller_who_cannot_wait_is_told_which_order_it_is(
    services: Services, orders: AsyncOrderClient, make_sku: MakeSku
) -> None:
    """Nobody knows whether it was accepted by then; if it was, it is carried out, and can be asked for."""
    sku = await make_sku(10)
    body = {"user_id": sku, "sku": sku, "total_amount": 700, "payment_method": "tok_slow"}
    async with aiohttp.ClientSession(services.order.url) as session:
        for deadline_ms in range(2, 60, 2):
            async with session.post("/orders", json=body, headers={DEADLINE_HEADER: f"{deadline_ms}"}) as reply:
                answer = await reply.json()
            if reply.status == 504 and "order_id" in answer:
                break
    assert (answer["code"], answer["retryable"]) == ("deadline_exceeded", True)
    assert answer["order_id"] in answer["detail"]
    async with asyncio.timeout(20):
        while not (found := [order async for order in orders.list(user_id=sku)]) or any(
            order.status is not OrderStatus.COMPLETED for order in found
        ):
            await asyncio.sleep(0.1)
    assert answer["order_id"] in {order.order_id for order in found}


@pytest.mark.usefixtures("slow_card")
async def test_orders_whose_callers_do_not_wait_are_limited(
    services: Services, orders: AsyncOrderClient, make_sku: MakeSku, tmp_path: Path
) -> None:
    """Beyond as many as a service answers at once further ones are refused: short deadlines must pile up nothing."""
    sku = await make_sku(1_000)
    service = ServiceProcess("order", services.order.environment, tmp_path / "order.log")
    service.start(ORDER_REQUESTS_IN_FLIGHT_MAX="5")
    body = {"user_id": sku, "sku": sku, "total_amount": 700, "payment_method": "tok_slow"}
    seen: Counter[str] = Counter()
    try:
        async with aiohttp.ClientSession(service.url) as session:
            for _ in range(15):
                async with session.post("/orders", json=body, headers={DEADLINE_HEADER: "100"}) as reply:
                    answer = await reply.json()
                seen[answer.get("code", answer["status"])] += 1
    finally:
        service.stop()
    assert seen["overloaded"] >= 5
    accepted = [await orders.wait(order.order_id, timeout_s=20) async for order in orders.list(user_id=sku)]
    assert 5 <= len(accepted) <= 10
    assert {order.status for order in accepted} == {OrderStatus.COMPLETED}


async def test_who_repeats_after_his_deadline_is_told_how_it_ended(services: Services, make_sku: MakeSku) -> None:
    """With the same key he gets the order that goes on without him, however early he gave up."""
    sku = await make_sku(10)
    body = {"user_id": sku, "sku": sku, "total_amount": 700, "payment_method": "tok_slow"}
    key = {"Idempotency-Key": sku}
    statuses = []
    async with aiohttp.ClientSession(services.order.url) as session:
        for deadline_ms in ("1", "20", "100", "400", "10000"):
            while True:
                async with session.post("/orders", json=body, headers=key | {DEADLINE_HEADER: deadline_ms}) as reply:
                    answer = await reply.json()
                # The first one is being worked at.
                if reply.status != 409:
                    break
                assert answer["code"] == "request_in_progress"
                await asyncio.sleep(0.05)
            statuses.append(reply.status)
    assert set(statuses[:-1]) <= {201, 202, 504}
    assert (statuses[-1], answer["status"]) == (201, "completed")
