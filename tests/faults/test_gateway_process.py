"""The payment service in front of a gateway that is a process of its own: down, slow, killed, failing after charging.

What the gateway's ledger says was charged is compared with what the payment service made of it.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from common.clients import (
    AsyncPaymentClient,
    Payment,
    PaymentDeclined,
    PaymentStatus,
    RetryPolicy,
)
from tests.database_server import DatabaseServer
from tests.gateway_process import GatewayProcess
from tests.processes import FAST_RECOVERY, ServiceProcess
from vv import migrate

UNSETTLED = {PaymentStatus.PENDING, PaymentStatus.CANCELLING, PaymentStatus.REFUNDING}
CHARGED = Counter({("charge", 700): 1})
CHARGED_AND_REFUNDED = Counter({("charge", 700): 1, ("refund", 700): 1})
NOTHING: Counter[tuple[str, int]] = Counter()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), "--slow-s", "2").start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def payment(
    database_server: DatabaseServer, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """A payment service with a database of its own, of which the audit of the sandbox's books knows nothing."""
    with database_server.further("gateway_payment_db") as [url]:
        yield from running_payment_service(url, gateway, tmp_path_factory.mktemp("payment"))


def running_payment_service(url: str, gateway: GatewayProcess, folder: Path) -> Iterator[ServiceProcess]:
    migrate.apply("payment", url)
    settings = {
        "PAYMENT_DATABASE_URL": url,
        "PAYMENT_GATEWAY_URL": gateway.url,
        "PAYMENT_GATEWAY_TIMEOUT_S": "1",
        "PAYMENT_LEASE_S": "2.5",
    }
    service = ServiceProcess("payment", FAST_RECOVERY | settings, folder / "payment.log").start()
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture
async def payments(payment: ServiceProcess) -> AsyncIterator[AsyncPaymentClient]:
    async with AsyncPaymentClient(payment.url, timeout_s=30) as client:
        yield client


@pytest.fixture
def misbehaving(gateway: GatewayProcess, payment: ServiceProcess) -> Iterator[GatewayProcess]:
    """Whatever the test does to the gateway, and to the payment service, is mended afterwards."""
    yield gateway
    if gateway.process.poll() is not None:
        gateway.start()
    gateway.behave(latency_s=0, error_after_charging=0, unavailable=False, decline_share=0)
    if payment.process.poll() is not None:
        payment.start()


@pytest.fixture
def order_id() -> str:
    return str(uuid4())


async def settled(payments: AsyncPaymentClient, order_id: str) -> Payment:
    """The payment once nothing of it is outstanding."""
    async with asyncio.timeout(30):
        while (payment := await payments.get(order_id)).status in UNSETTLED:
            await asyncio.sleep(0.05)
    return payment


async def test_a_payment_and_its_refunds_are_in_the_ledger(
    payments: AsyncPaymentClient, gateway: GatewayProcess, order_id: str
) -> None:
    """What is charged and given back, and the order that it is about."""
    assert (await payments.create(order_id=order_id, amount=700)).status is PaymentStatus.CAPTURED
    await payments.refund(order_id=order_id, amount=200)
    assert (await payments.refund(order_id=order_id)).status is PaymentStatus.REFUNDED
    assert gateway.approved(order_id) == Counter({("charge", 700): 1, ("refund", 200): 1, ("refund", 500): 1})
    assert [entry["reference"] for entry in gateway.entries() if entry["key"] == f"{order_id}:charge"] == [order_id]


async def test_a_decline_is_definite(payments: AsyncPaymentClient, gateway: GatewayProcess, order_id: str) -> None:
    with pytest.raises(PaymentDeclined) as declined:
        await payments.create(order_id=order_id, amount=700, payment_method="tok_declined")
    assert declined.value.extra["reason"] == "card_declined"
    assert gateway.approved(order_id) == NOTHING


async def test_a_reply_that_was_lost_is_asked_for(
    payments: AsyncPaymentClient, gateway: GatewayProcess, order_id: str
) -> None:
    """The connection broke after it had charged."""
    assert (await payments.create(order_id=order_id, amount=700, payment_method="tok_timeout")).status in UNSETTLED
    assert (await settled(payments, order_id)).status is PaymentStatus.CAPTURED
    assert gateway.approved(order_id) == CHARGED


async def test_a_500_after_charging_is_no_failure(
    payments: AsyncPaymentClient, misbehaving: GatewayProcess, order_id: str
) -> None:
    """It is charged once, and so is its refund, although each of them was answered with 500."""
    await asyncio.to_thread(misbehaving.behave, error_after_charging=1)
    assert (await payments.create(order_id=order_id, amount=700)).status is PaymentStatus.PENDING
    assert (await settled(payments, order_id)).status is PaymentStatus.CAPTURED
    assert (await payments.refund(order_id=order_id)).status is PaymentStatus.REFUNDING
    await asyncio.to_thread(misbehaving.behave, error_after_charging=0)
    assert (await settled(payments, order_id)).status is PaymentStatus.REFUNDED
    assert misbehaving.approved(order_id) == CHARGED_AND_REFUNDED


async def test_a_gateway_that_is_too_slow_charges_once(
    payments: AsyncPaymentClient, misbehaving: GatewayProcess, order_id: str
) -> None:
    """Longer than a call may take: the charge goes on there, and is found when the gateway has become quicker."""
    await asyncio.to_thread(misbehaving.behave, latency_s=1.5)
    assert (await payments.create(order_id=order_id, amount=700)).status is PaymentStatus.PENDING
    await asyncio.sleep(1)
    await asyncio.to_thread(misbehaving.behave, latency_s=0)
    assert (await settled(payments, order_id)).status is PaymentStatus.CAPTURED
    assert misbehaving.approved(order_id) == CHARGED


@pytest.mark.parametrize("outage", ["unavailable", "killed"])
async def test_a_gateway_that_is_down_puts_charges_off(
    outage: str, payments: AsyncPaymentClient, misbehaving: GatewayProcess, order_id: str
) -> None:
    """However often it is asked in vain nothing is given up: what was accepted is charged when it is back."""
    if outage == "killed":
        misbehaving.kill()
    else:
        await asyncio.to_thread(misbehaving.behave, unavailable=True)
    assert (await payments.create(order_id=order_id, amount=700)).status is PaymentStatus.PENDING
    await asyncio.sleep(3)
    assert (await payments.get(order_id)).status is PaymentStatus.PENDING
    if outage == "killed":
        await asyncio.to_thread(misbehaving.start)
    else:
        await asyncio.to_thread(misbehaving.behave, unavailable=False)
    assert (await settled(payments, order_id)).status is PaymentStatus.CAPTURED
    assert misbehaving.approved(order_id) == CHARGED


async def test_a_cancellation_waits_for_a_gateway_that_is_down(
    payments: AsyncPaymentClient, misbehaving: GatewayProcess, order_id: str
) -> None:
    """Charged, the reply lost, and the gateway gone before it could be asked: all of it goes back once it is there."""
    await asyncio.to_thread(misbehaving.behave, error_after_charging=1)
    await payments.create(order_id=order_id, amount=700)
    misbehaving.kill()
    assert (await payments.cancel(order_id)).status in UNSETTLED
    await asyncio.to_thread(misbehaving.start)
    assert (await settled(payments, order_id)).status is PaymentStatus.REFUNDED
    assert misbehaving.approved(order_id) == CHARGED_AND_REFUNDED


@pytest.mark.parametrize("signals", [[], [signal.SIGKILL], [signal.SIGSTOP, signal.SIGCONT]], ids=["", "kill", "stop"])
async def test_a_charge_that_arrives_after_it_was_given_up_is_refused(
    signals: list[signal.Signals], payment: ServiceProcess, misbehaving: GatewayProcess, order_id: str
) -> None:
    """The charge is on its way when the order is cancelled; whoever sent it lives on, is killed, or sleeps until it has
    arrived. Nothing is charged, so nothing needs to be given back."""
    async with AsyncPaymentClient(payment.url, timeout_s=30, retry=RetryPolicy(attempts_max=1)) as payments:
        charging = asyncio.create_task(payments.create(order_id=order_id, amount=700, payment_method="tok_slow"))
        await asyncio.sleep(0.3)
        assert (await payments.cancel(order_id)).status is PaymentStatus.VOIDED
        for number in signals:
            payment.process.send_signal(number)
            await asyncio.sleep(1)
        await asyncio.sleep(2)
        [outcome] = await asyncio.gather(charging, return_exceptions=True)
        if signals == [signal.SIGKILL]:
            payment.process.wait(10)
            await asyncio.to_thread(payment.start)
        ended = await settled(payments, order_id)
    # Who asked for it has heard that it is unknown, or nothing at all.
    assert not isinstance(outcome, Payment) or outcome.status is PaymentStatus.PENDING
    assert (ended.status, ended.refunded_amount) == (PaymentStatus.VOIDED, 0)
    assert misbehaving.approved(order_id) == NOTHING
    assert [entry["status"] for entry in misbehaving.entries() if entry["charge_key"].startswith(order_id)] == [
        "cancelled"
    ]


async def test_a_charge_that_is_given_up_is_never_made(
    payments: AsyncPaymentClient, gateway: GatewayProcess, order_id: str
) -> None:
    """The gateway fails and says that it knows of no charge: its key is cancelled before the payment is declined."""
    await payments.create(order_id=order_id, amount=700, payment_method="tok_error")
    ended = await settled(payments, order_id)
    assert (ended.status, ended.reason) == (PaymentStatus.DECLINED, "gateway_failed")
    [entry] = [entry for entry in gateway.entries() if entry["charge_key"].startswith(order_id)]
    assert (entry["kind"], entry["key"]) == ("cancel", f"{order_id}:charge")


async def test_many_charges_while_the_gateway_is_killed(
    payments: AsyncPaymentClient, misbehaving: GatewayProcess
) -> None:
    """Three hundred charges, and the gateway is killed and started twice amid them: each order is charged once."""
    order_ids = [str(uuid4()) for _ in range(300)]
    limit = asyncio.Semaphore(64)

    async def charge(order_id: str) -> None:
        async with limit:
            await payments.create(order_id=order_id, amount=700)

    charging = [asyncio.create_task(charge(order_id)) for order_id in order_ids]
    for _ in range(2):
        await asyncio.sleep(0.15)
        misbehaving.kill()
        await asyncio.to_thread(misbehaving.start)
    await asyncio.gather(*charging)
    ended = [await settled(payments, order_id) for order_id in order_ids]
    assert Counter(payment.status for payment in ended) == {PaymentStatus.CAPTURED: 300}
    approved = Counter(entry["key"] for entry in misbehaving.entries() if entry["status"] == "approved")
    assert Counter(approved[f"{order_id}:charge"] for order_id in order_ids) == {1: 300}
