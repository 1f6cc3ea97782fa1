"""What the payment service does: charge, refund, cancel, each decided in the database before the gateway is called."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from uuid_utils import uuid7

from common import context, tracing
from common.batching import Batcher, as_outcome
from common.contracts.payments import CreatePayment, Payment, PaymentStatus, RefundPayment
from common.crash_points import CrashPoints
from common.errors import ServiceError, unwrap
from common.recovery import backoff_s
from common.telemetry import log
from common.versioned import LostRace
from payment_service import domain
from payment_service.domain import Move, NewPayment, PaymentRow
from payment_service.gateway import Gateway, GatewayUnavailable
from payment_service.gateway_wire import ChargeStatus
from payment_service.payments import Begun, Payments
from payment_service.settings import Settings

T = TypeVar("T")

# How often, in seconds, it is asked what has become of payments that another process drives.
_POLL_EVERY_S = 0.05


class StillUnknown(Exception):
    """The gateway has not said yet what became of it; ``times_not_found`` is how often it knew of no such charge."""

    def __init__(self, why: str, times_not_found: int) -> None:
        super().__init__(why)
        self.times_not_found = times_not_found


@dataclass(frozen=True)
class Batches:
    """The transactions and polls that payments share with each other."""

    open: Batcher[NewPayment, PaymentRow]
    move: Batcher[Move, PaymentRow]
    poll: Batcher[str, PaymentRow | None]

    async def drain(self) -> None:
        for batcher in (self.open, self.move, self.poll):
            await batcher.drain()


class Charges:
    def __init__(
        self, payments: Payments, batches: Batches, gateway: Gateway, settings: Settings, reached: CrashPoints
    ) -> None:
        self._payments = payments
        self._batches = batches
        self._gateway = gateway
        self._settings = settings
        self._reached = reached
        self._drivers: dict[str, asyncio.Task[PaymentRow]] = {}
        self._watchers: set[asyncio.Task[PaymentRow]] = set()
        self._steps: dict[PaymentStatus, Callable[[PaymentRow], Awaitable[Move]]] = {
            PaymentStatus.PENDING: self._charge,
            PaymentStatus.CANCELLING: self._settle_cancelled,
            PaymentStatus.REFUNDING: self._refund,
        }

    async def charge(self, item: CreatePayment) -> Payment:
        """Charge an order, once. The payment is ``pending`` if nobody knows by the time that its caller has to leave.

        Raises PaymentDeclined, PaymentCancelled, IdempotencyMismatch.
        """
        [outcome] = await self._charge_all([item], self._settings.gateway_timeout_s)
        return unwrap(outcome)

    async def charge_batch(self, items: Sequence[CreatePayment]) -> list[Payment | ServiceError]:
        """Charge each order once. Outcomes as of :meth:`charge`.

        The batch waits ``first_wait_s`` for its first outcome, and then not much longer for the others: a straggler
        is answered as pending and goes on; whoever asks for it again waits for it alone.
        """
        return await self._charge_all(items, self._settings.first_wait_s)

    async def _charge_all(self, items: Sequence[CreatePayment], within_s: float) -> list[Payment | ServiceError]:
        new = [NewPayment(str(uuid7()), item, _trace_of(item, alone=len(items) == 1)) for item in items]
        opened = await self._batches.open.submit_all(new)
        self._reached("charge_opened")
        drivers = [self._driver(own, payment) for own, payment in zip(new, opened, strict=True)]
        await self._wait({driver for driver in drivers if driver is not None}, context.seconds_to_answer(within_s))
        return [_outcome(item, driver, payment) for item, driver, payment in zip(items, drivers, opened, strict=True)]

    def _driver(self, new: NewPayment, payment: PaymentRow | ServiceError) -> "asyncio.Task[PaymentRow] | None":
        """The task that drives this payment, started if it is new, or one that waits for another process to do so."""
        if isinstance(payment, PaymentRow) and payment.payment_id == new.payment_id:
            driver = asyncio.create_task(self._advance_in(new.trace, payment))
            self._drivers[new.order_id] = driver
            driver.add_done_callback(lambda _: self._drivers.pop(new.order_id))
        here = self._drivers.get(new.order_id)
        if here is None and isinstance(payment, PaymentRow) and payment.status is PaymentStatus.PENDING:
            here = asyncio.create_task(self._watch(payment))
            self._watchers.add(here)
            here.add_done_callback(self._watchers.discard)
        return here

    async def _watch(self, payment: PaymentRow) -> PaymentRow:
        """Wait until the process that drives the payment is done with it; what it has made of it by then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(context.seconds_to_answer(self._settings.gateway_timeout_s)):
                while True:
                    left = await self._batches.poll.submit(payment.order_id)
                    if left is not None:
                        return left
                    # On the stroke of the clock, so that all who wait ask together, with one query.
                    await asyncio.sleep(_POLL_EVERY_S - time.monotonic() % _POLL_EVERY_S)
        return payment

    async def _wait(self, drivers: "set[asyncio.Task[PaymentRow]]", within_s: float) -> None:
        if drivers:
            done, slow = await asyncio.wait(drivers, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if done and slow:
                await asyncio.wait(slow, timeout=self._settings.straggler_wait_s)

    async def drain(self) -> None:
        """Wait for the charges that go on after their request was answered."""
        while going_on := {*self._drivers.values(), *self._watchers}:
            await asyncio.wait(going_on)

    async def refund(self, wanted: RefundPayment, *, owner: str | None = None) -> Payment:
        """Give money back, once per request_id. The payment is ``refunding`` while nobody knows.

        With ``owner``, other users' payments count as missing.

        Raises PaymentNotFound, PaymentUnresolved, NothingCaptured, RefundExceedsCharge, IdempotencyMismatch.
        """
        return await self._carry_out(await self._payments.begin_refund(wanted, owner=owner))

    async def cancel(self, order_id: str) -> Payment:
        """See to it that the order is not charged: void it, or refund all that was charged.

        Until the payment is ``voided``, ``declined`` or ``refunded``, nobody knows; recovery goes on.
        """
        return await self._carry_out(await self._payments.begin_cancel(order_id))

    async def _carry_out(self, begun: Begun) -> Payment:
        # A repeated request finds a payment that is being driven; driving it, too, would only put recovery off.
        payment = await self.advance(begun.payment) if begun.is_new else begun.payment
        return payment.to_contract()

    async def _advance_in(self, trace: str | None, payment: PaymentRow) -> PaymentRow:
        context.trace_context.set(trace)
        return await self.advance(payment)

    async def advance(self, payment: PaymentRow) -> PaymentRow:
        """Drive a payment until nothing is outstanding, or nobody knows, or somebody else drives it."""
        # What was decided is carried out, also when its caller waits no longer.
        context.set_deadline(None)
        try:
            while step := self._steps.get(payment.status):
                payment = await self._write(await step(payment))
        except StillUnknown as unknown:
            await self._postpone(payment, unknown)
        return payment

    async def _write(self, move: Move) -> PaymentRow:
        try:
            return await self._batches.move.submit(move)
        except LostRace:
            return await self._payments.get(move.payment.order_id)

    async def _charge(self, payment: PaymentRow) -> Move:
        """Before a charge is sent again the gateway is asked; the key of one that it goes on not knowing is cancelled.

        Then a charge that is still on its way is refused when it arrives, whoever sent it.
        """
        result, times_not_found = None, payment.times_not_found
        if payment.attempts:
            result = await self._ask("find", self._gateway.find(payment.charge_key), times_not_found)
            times_not_found += result is None
        if result is None and times_not_found < self._settings.charge_not_found_max:
            charge = self._gateway.charge(
                payment.charge_key,
                amount=payment.amount,
                currency=payment.currency,
                payment_method=payment.payment_method,
                reference=payment.order_id,
            )
            result = await self._ask("charge", charge, times_not_found)
        elif result is None:
            result = await self._ask("cancel", self._gateway.cancel(payment.charge_key), times_not_found)
        self._reached("charged")
        match result.status:
            case ChargeStatus.APPROVED:
                return Move(payment, PaymentStatus.CAPTURED)
            case ChargeStatus.DECLINED:
                return Move(payment, PaymentStatus.DECLINED, result.reason)
            case ChargeStatus.CANCELLED:
                return Move(payment, PaymentStatus.DECLINED, "gateway_failed")

    async def _settle_cancelled(self, payment: PaymentRow) -> Move:
        """A charge may be under way: it has been made by now, or its key is cancelled and it never will be."""
        result = await self._ask("cancel", self._gateway.cancel(payment.charge_key), payment.times_not_found)
        match result.status:
            case ChargeStatus.APPROVED:
                return Move(payment, PaymentStatus.REFUNDING, domain.ORDER_CANCELLED, refund=payment.amount)
            case ChargeStatus.DECLINED:
                return Move(payment, PaymentStatus.DECLINED, result.reason)
            case ChargeStatus.CANCELLED:
                return Move(payment, PaymentStatus.VOIDED, domain.ORDER_CANCELLED)

    async def _refund(self, payment: PaymentRow) -> Move:
        unknown: StillUnknown | None = None
        for refund in await self._payments.open_refunds(payment.order_id):
            made = self._gateway.refund(
                payment.refund_key(refund.n),
                charge_key=payment.charge_key,
                amount=refund.amount,
                currency=payment.currency,
            )
            try:
                await self._ask("refund", made, payment.times_not_found)
            except StillUnknown as one:
                # The others do not depend on it.
                unknown = one
                continue
            self._reached("refunded")
            await self._payments.confirm_refund(payment.order_id, refund.n)
        if unknown is not None:
            raise unknown
        rest = PaymentStatus.REFUNDED if payment.refundable == 0 else PaymentStatus.CAPTURED
        return Move(payment, rest, payment.reason)

    async def _ask(self, what: str, call: Awaitable[T], times_not_found: int) -> T:
        try:
            with tracing.span(f"gateway {what}", "CLIENT"):
                async with asyncio.timeout(self._settings.gateway_timeout_s):
                    return await call
        except TimeoutError:
            raise StillUnknown("The gateway did not answer in time.", times_not_found) from None
        except (GatewayUnavailable, ServiceError) as error:
            raise StillUnknown(str(error), times_not_found) from error

    async def _postpone(self, payment: PaymentRow, unknown: StillUnknown) -> None:
        delay_s = backoff_s(payment.attempts + 1, self._settings.retry_first_s, self._settings.retry_most_s)
        log.warning(
            "payment_unknown",
            order_id=payment.order_id,
            status=payment.status,
            cause=str(unknown),
            next_in_s=delay_s,
        )
        # If this fails, too, the lease runs out by itself.
        with contextlib.suppress(ServiceError):
            await self._payments.postpone(payment, delay_s, unknown.times_not_found)


def _trace_of(item: CreatePayment, *, alone: bool) -> str | None:
    """The trace in which a charge is made: that of its order. The request's is that of one of them."""
    here = context.sampled_trace()
    is_ours = alone or (item.trace is not None and here is not None and context.is_same_trace(item.trace, here))
    return here if is_ours else item.trace


def _outcome(
    wanted: CreatePayment, driver: "asyncio.Task[PaymentRow] | None", payment: PaymentRow | ServiceError
) -> Payment | ServiceError:
    """What its driver made of the payment, or how it was found if there is no driver or it is still at work."""
    if driver is not None and driver.done():
        payment = as_outcome(driver.exception() or driver.result())
    return payment if isinstance(payment, ServiceError) else domain.answer(wanted, payment)
