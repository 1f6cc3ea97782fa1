"""What the payment service does: charge, refund, cancel, each decided in the database before the gateway is called."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from uuid_utils import uuid7

from common.background import CrashPoints
from common.contracts.payments import CreatePayment, Payment, PaymentStatus, RefundPayment
from common.errors import ServiceError
from common.recovery import backoff_s
from common.telemetry import log
from payment_service import domain
from payment_service.domain import LostRace, Move, NewPayment, PaymentRow
from payment_service.gateway import Gateway, GatewayUnavailable
from payment_service.payments import Payments
from payment_service.settings import Settings

T = TypeVar("T")


class Charges:
    def __init__(self, payments: Payments, gateway: Gateway, settings: Settings, reached: CrashPoints) -> None:
        self._payments = payments
        self._gateway = gateway
        self._settings = settings
        self._reached = reached
        self._steps: dict[PaymentStatus, Callable[[PaymentRow], Awaitable[Move]]] = {
            PaymentStatus.PENDING: self._charge,
            PaymentStatus.CANCELLING: self._settle_cancelled,
            PaymentStatus.REFUNDING: self._refund,
        }

    async def charge(self, items: Sequence[CreatePayment]) -> list[Payment | ServiceError]:
        """Charge each order once. Outcomes: the payment (``pending`` while nobody knows), or PaymentDeclined,
        PaymentCancelled, IdempotencyMismatch."""
        first = {item.order_id: NewPayment(str(uuid7()), item) for item in reversed(items)}
        opened = await self._payments.open(list(first.values()))
        self._reached("charge_opened")
        driven = await asyncio.gather(
            *(self._drive_if_own(payment, new) for payment, new in zip(opened, first.values(), strict=True))
        )
        outcomes = dict(zip(first, driven, strict=True))
        return [domain.answer(item, outcomes[item.order_id]) for item in items]

    async def refund(self, wanted: RefundPayment) -> Payment:
        """Give money back, once per request_id. The payment is ``refunding`` while nobody knows.

        Raises PaymentNotFound, NothingCaptured, RefundExceedsCharge, IdempotencyMismatch.
        """
        return (await self.advance(await self._payments.begin_refund(wanted))).to_contract()

    async def cancel(self, order_id: str) -> Payment:
        """See to it that the order is not charged: void it, or refund all that was charged.

        Until the payment is ``voided``, ``declined`` or ``refunded``, nobody knows; recovery goes on.
        """
        return (await self.advance(await self._payments.begin_cancel(order_id))).to_contract()

    async def advance(self, payment: PaymentRow) -> PaymentRow:
        """Drive a payment until nothing is outstanding, or nobody knows, or somebody else drives it."""
        try:
            while step := self._steps.get(payment.status):
                payment = await self._write(await step(payment))
        except LostRace:
            return await self._payments.get(payment.order_id)
        except GatewayUnavailable as error:
            await self._postpone(payment, error)
        return payment

    async def _drive_if_own(self, payment: PaymentRow, new: NewPayment) -> PaymentRow | ServiceError:
        if payment.payment_id != new.payment_id:
            return payment
        try:
            return await self.advance(payment)
        except ServiceError as error:
            return error

    async def _charge(self, payment: PaymentRow) -> Move:
        """Before a charge is sent again the gateway is asked; one that it still does not know was never made."""
        result = await self._ask(self._gateway.find(payment.charge_key)) if payment.attempts else None
        if result is None and payment.attempts >= self._settings.settle_attempts_max:
            return Move(payment, PaymentStatus.DECLINED, reason="gateway_failed")
        if result is None and payment.attempts >= self._settings.charge_attempts_max:
            raise GatewayUnavailable("The gateway does not know the charge.")
        if result is None:
            result = await self._ask(
                self._gateway.charge(
                    payment.charge_key,
                    amount=payment.amount,
                    currency=payment.currency,
                    payment_method=payment.payment_method,
                )
            )
        self._reached("charged")
        if result.approved:
            return Move(payment, PaymentStatus.CAPTURED)
        return Move(payment, PaymentStatus.DECLINED, reason=result.reason)

    async def _settle_cancelled(self, payment: PaymentRow) -> Move:
        """A charge was under way when the order was cancelled: it may still arrive for a while."""
        result = await self._ask(self._gateway.find(payment.charge_key))
        if result is None and payment.attempts >= self._settings.settle_attempts_max:
            return Move(payment, PaymentStatus.VOIDED, reason="order_cancelled")
        if result is None:
            raise GatewayUnavailable("The gateway does not know the charge yet.")
        if result.approved:
            return Move(payment, PaymentStatus.REFUNDING, reason="order_cancelled", refund=payment.amount)
        return Move(payment, PaymentStatus.DECLINED, reason=result.reason)

    async def _refund(self, payment: PaymentRow) -> Move:
        refunds = await self._payments.open_refunds(payment.order_id)
        for refund in refunds:
            await self._ask(
                self._gateway.refund(
                    payment.refund_key(refund.n),
                    charge_key=payment.charge_key,
                    amount=refund.amount,
                    currency=payment.currency,
                )
            )
        self._reached("refunded")
        rest = PaymentStatus.REFUNDED if payment.refundable == 0 else PaymentStatus.CAPTURED
        return Move(payment, rest, payment.reason, refunds_done=tuple(refund.n for refund in refunds))

    async def _ask(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._settings.gateway_timeout_s):
                return await call
        except TimeoutError:
            raise GatewayUnavailable("The gateway did not answer in time.") from None
        except ServiceError as error:
            raise GatewayUnavailable(error.detail) from error

    async def _write(self, move: Move) -> PaymentRow:
        [outcome] = await self._payments.move([move])
        if isinstance(outcome, LostRace):
            raise outcome
        return outcome

    async def _postpone(self, payment: PaymentRow, error: GatewayUnavailable) -> None:
        delay_s = backoff_s(payment.attempts + 1, self._settings.retry_first_s, self._settings.retry_most_s)
        log.warning(
            "payment_unknown",
            order_id=payment.order_id,
            status=payment.status,
            cause=str(error),
            next_in_s=delay_s,
        )
        # If this fails, too, the lease runs out by itself.
        with contextlib.suppress(ServiceError):
            await self._payments.postpone(payment, delay_s)
