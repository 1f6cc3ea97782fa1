"""Payments whose gateway fails or says nothing, step by step: what it is asked, how often, and what is written down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from pydantic import SecretStr

from common.batching import Batcher
from common.contracts.payments import CreatePayment, PaymentStatus, RefundPayment
from common.crash_points import crash_points
from common.database import Database
from common.telemetry import Metrics
from payment_service.charges import Batches, Charges
from payment_service.domain import REASON_CHARACTERS_MAX
from payment_service.gateway import ChargeResult, GatewayUnavailable
from payment_service.gateway_wire import ChargeStatus
from payment_service.payments import Payments
from payment_service.recovery import make_recovery
from payment_service.settings import Settings
from tests.conftest import open_database
from tests.database_server import DatabaseServer
from vv import migrate

APPROVED = ChargeResult(ChargeStatus.APPROVED)
CANCELLED = ChargeResult(ChargeStatus.CANCELLED)


@dataclass
class Gateway:
    """Answers each kind of call from a script, the last answer for ever; keeps a journal of the calls."""

    charges: list[ChargeResult | None] = field(default_factory=lambda: [None])
    finds: list[ChargeResult | str | None] = field(default_factory=lambda: [None])
    cancels: list[ChargeResult | None] = field(default_factory=lambda: [CANCELLED])
    refunds: list[bool] = field(default_factory=lambda: [True])
    journal: list[str] = field(default_factory=list)

    async def charge(
        self, key: str, *, amount: int, currency: str, payment_method: str, reference: str
    ) -> ChargeResult:
        self.journal.append("charge")
        result = self.charges.pop(0) if len(self.charges) > 1 else self.charges[0]
        if result is None:
            raise GatewayUnavailable("No answer.")
        return result

    async def find(self, key: str) -> ChargeResult | None:
        result = self.finds.pop(0) if len(self.finds) > 1 else self.finds[0]
        if isinstance(result, str):
            self.journal.append(result)
            raise GatewayUnavailable("No answer.")
        self.journal.append("find")
        return result

    async def cancel(self, key: str) -> ChargeResult:
        self.journal.append("cancel")
        result = self.cancels.pop(0) if len(self.cancels) > 1 else self.cancels[0]
        if result is None:
            raise GatewayUnavailable("No answer.")
        return result

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def refund(self, key: str, *, charge_key: str, amount: int, currency: str) -> None:
        self.journal.append(f"{key.rsplit(':', 1)[1]}:{amount}")
        if not (self.refunds.pop(0) if len(self.refunds) > 1 else self.refunds[0]):
            raise GatewayUnavailable("No answer.")


class Till:
    """The payment service's use cases in front of that gateway, with recovery at hand."""

    def __init__(self, database: Database, gateway: Gateway) -> None:
        metrics = Metrics("test")
        settings = Settings(database_url=SecretStr("mysql://u:p@h/d"), port=1, retry_first_s=0.001, retry_most_s=0.001)
        self.settings = settings
        self.payments = Payments(database, settings.lease_s)
        batches = Batches(
            open=Batcher("open", self.payments.open, settings, metrics),
            move=Batcher("move", self.payments.move, settings, metrics),
            poll=Batcher("poll", self.payments.poll, settings, metrics),
        )
        self.charges = Charges(self.payments, batches, gateway, settings, crash_points(None))
        self.recovery = make_recovery(
            database, self.charges, metrics, lease_s=settings.lease_s, retry_most_s=settings.retry_most_s
        )
        self.order_id = str(uuid4())

    async def charge(self) -> None:
        await self.charges.charge(CreatePayment(order_id=self.order_id, amount=700))

    async def recover(self, *, until: set[PaymentStatus]) -> PaymentStatus:
        async with asyncio.timeout(5):
            while (payment := await self.payments.get(self.order_id)).status not in until:
                await self.recovery.run_once(10)
                await asyncio.sleep(0.002)
        return payment.status


@asynccontextmanager
async def till_with(database_server: DatabaseServer, gateway: Gateway) -> AsyncIterator[Till]:
    """With a database in which no service takes up what the tests leave unfinished."""
    with database_server.further("till_db") as [url]:
        await asyncio.to_thread(migrate.apply, "payment", url)
        async with open_database(url) as database:
            yield Till(database, gateway)


@pytest.mark.parametrize("silences", [[], ["silence"], ["silence"] * 20], ids=["none", "one", "twenty"])
async def test_only_answers_of_the_gateway_count_against_a_charge(
    silences: list[str], database_server: DatabaseServer
) -> None:
    """A charge whose key the gateway has said three times not to know is cancelled there, and only then given up; a
    gateway that says nothing at all brings that no nearer."""
    gateway = Gateway(finds=[None, *silences, None])
    async with till_with(database_server, gateway) as till:
        await till.charge()
        ended = await till.recover(until={PaymentStatus.DECLINED, PaymentStatus.CAPTURED})
        payment = await till.payments.get(till.order_id)

    assert (ended, payment.reason) == (PaymentStatus.DECLINED, "gateway_failed")
    assert gateway.journal.count("charge") == till.settings.charge_not_found_max
    assert gateway.journal.count("find") == till.settings.charge_not_found_max
    assert gateway.journal.count("silence") == len(silences)
    assert gateway.journal[-1] == "cancel"


async def test_a_decline_is_written_with_the_longest_reason(database_server: DatabaseServer) -> None:
    """The column takes what gateways' words are cut to."""
    reason = "~" * REASON_CHARACTERS_MAX
    gateway = Gateway(cancels=[ChargeResult(ChargeStatus.DECLINED, reason)])
    async with till_with(database_server, gateway) as till:
        await till.charge()
        assert await till.recover(until={PaymentStatus.DECLINED}) is PaymentStatus.DECLINED
        assert (await till.payments.get(till.order_id)).reason == reason


async def test_a_charge_that_arrives_before_its_key_is_cancelled_is_captured(database_server: DatabaseServer) -> None:
    """The gateway did not know it three times, and has made it when the key is to be cancelled: it is no failure."""
    gateway = Gateway(cancels=[None, None, APPROVED])
    async with till_with(database_server, gateway) as till:
        await till.charge()
        ended = await till.recover(until={PaymentStatus.DECLINED, PaymentStatus.CAPTURED})
    assert ended is PaymentStatus.CAPTURED
    assert gateway.journal.count("cancel") == 3


async def test_a_key_that_was_cancelled_before_a_crash_is_found_cancelled(database_server: DatabaseServer) -> None:
    """Who cancelled the key died before he wrote it down: whoever comes after him hears that it is cancelled."""
    gateway = Gateway(finds=[CANCELLED])
    async with till_with(database_server, gateway) as till:
        await till.charge()
        ended = await till.recover(until={PaymentStatus.DECLINED, PaymentStatus.CAPTURED})
        payment = await till.payments.get(till.order_id)
    assert (ended, payment.reason) == (PaymentStatus.DECLINED, "gateway_failed")
    assert gateway.journal == ["charge", "find"]


@pytest.mark.parametrize(
    ("answer", "status", "journal"),
    [
        (CANCELLED, PaymentStatus.VOIDED, ["charge", "cancel"]),
        (ChargeResult(ChargeStatus.DECLINED, "card_declined"), PaymentStatus.DECLINED, ["charge", "cancel"]),
        (APPROVED, PaymentStatus.REFUNDED, ["charge", "cancel", "1:700"]),
    ],
    ids=["never_charged", "declined", "charged"],
)
async def test_a_cancelled_payment_is_settled_by_one_answer(
    answer: ChargeResult, status: PaymentStatus, journal: list[str], database_server: DatabaseServer
) -> None:
    """What is to be done about a charge of which nobody heard is known as soon as the gateway closed its key."""
    gateway = Gateway(cancels=[answer])
    async with till_with(database_server, gateway) as till:
        await till.charge()
        assert (await till.charges.cancel(till.order_id)).status is status
    assert gateway.journal == journal


async def test_a_cancellation_that_the_gateway_does_not_answer_is_asked_for_again(
    database_server: DatabaseServer,
) -> None:
    """Until it answers nobody knows; what was not answered decides nothing."""
    gateway = Gateway(cancels=[None, None, CANCELLED])
    async with till_with(database_server, gateway) as till:
        await till.charge()
        assert (await till.charges.cancel(till.order_id)).status is PaymentStatus.CANCELLING
        assert await till.recover(until={PaymentStatus.VOIDED}) is PaymentStatus.VOIDED
    assert gateway.journal == ["charge", "cancel", "cancel", "cancel"]


async def test_a_charge_is_never_sent_again_unasked(database_server: DatabaseServer) -> None:
    """Before each repetition the gateway is asked; when it knows the charge after all, that is the outcome."""
    gateway = Gateway(finds=[None, APPROVED])
    async with till_with(database_server, gateway) as till:
        await till.charge()
        assert await till.recover(until={PaymentStatus.CAPTURED}) is PaymentStatus.CAPTURED
    assert gateway.journal == ["charge", "find", "charge", "find"]


async def test_refunds_are_confirmed_one_at_a_time(database_server: DatabaseServer) -> None:
    """Of two refunds the gateway makes the first and fails with the second: only the second one is asked for again."""
    gateway = Gateway(charges=[APPROVED], refunds=[False, True, False, True])
    async with till_with(database_server, gateway) as till:
        await till.charge()
        for amount in (100, 200):
            await till.charges.refund(RefundPayment(order_id=till.order_id, amount=amount))
        ended = await till.recover(until={PaymentStatus.CAPTURED})
        payment = await till.payments.get(till.order_id)
        rest = await till.payments.open_refunds(till.order_id)

    assert gateway.journal == ["charge", "1:100", "1:100", "2:200", "2:200"]
    assert (ended, payment.refunded_amount, rest) == (PaymentStatus.CAPTURED, 300, [])


async def test_a_refund_that_is_not_made_keeps_no_other_back(database_server: DatabaseServer) -> None:
    """It stays open, however often it is declined, and the next one is made all the same."""
    gateway = Gateway(charges=[APPROVED], refunds=[False, False, True, True])
    async with till_with(database_server, gateway) as till:
        await till.charge()
        for amount in (100, 200):
            await till.charges.refund(RefundPayment(order_id=till.order_id, amount=amount))
        [open_one] = await till.payments.open_refunds(till.order_id)
        ended = await till.recover(until={PaymentStatus.CAPTURED})
        payment = await till.payments.get(till.order_id)

    assert (open_one.n, open_one.amount) == (1, 100)
    assert gateway.journal == ["charge", "1:100", "1:100", "2:200", "1:100"]
    assert (ended, payment.refunded_amount) == (PaymentStatus.CAPTURED, 300)
