"""What the payment service does: charge, refund, cancel, each decided in the database before the gateway is called."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from uuid_utils import uuid7

from common.background import CrashPoints
from common.context import trace_context
from common.contracts.payments import (
    CreatePayment,
    NothingCaptured,
    Payment,
    PaymentNotFound,
    PaymentStatus,
    RefundExceedsCharge,
    RefundPayment,
)
from common.database import Database, DuplicateKey, Transaction
from common.errors import ServiceError
from common.recovery import backoff_s
from common.telemetry import log
from payment_service import domain, queries
from payment_service.domain import LostRace, Move, PaymentRow
from payment_service.gateway import Gateway, GatewayUnavailable
from payment_service.settings import Settings

T = TypeVar("T")


class Charges:
    def __init__(self, database: Database, gateway: Gateway, settings: Settings, reached: CrashPoints) -> None:
        self._database = database
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
        first = {item.order_id: (str(uuid7()), item) for item in reversed(items)}
        payments = await self._database.transaction(
            partial(_open, items=list(first.values()), lease_s=self._settings.lease_s)
        )
        self._reached("charge_opened")
        own = [
            payments[order_id]
            for order_id, (payment_id, _) in first.items()
            if payments[order_id].payment_id == payment_id
        ]
        driven = await asyncio.gather(*(self._advance_or_error(payment) for payment in own))
        outcomes = dict(payments) | {payment.order_id: outcome for payment, outcome in zip(own, driven, strict=True)}
        return [domain.answer(item, outcomes[item.order_id]) for item in items]

    async def refund(self, wanted: RefundPayment) -> Payment:
        """Give money back, once per request_id. The payment is ``refunding`` while nobody knows.

        Raises PaymentNotFound, NothingCaptured, RefundExceedsCharge.
        """
        payment = await self._database.transaction(partial(self._decide_refund, wanted=wanted))
        return (await self.advance(payment)).to_contract()

    async def cancel(self, order_id: str) -> Payment:
        """See to it that the order is not charged: void it, or refund all that was charged.

        Until the payment is ``voided``, ``declined`` or ``refunded``, nobody knows; recovery goes on.
        """
        payment = await self._database.transaction(partial(self._decide_cancel, order_id=order_id))
        return (await self.advance(payment)).to_contract()

    async def get(self, order_id: str) -> Payment:
        """Raises PaymentNotFound."""
        return (await self._read(order_id)).to_contract()

    async def advance(self, payment: PaymentRow) -> PaymentRow:
        """Drive a payment until nothing is outstanding, or nobody knows, or somebody else drives it."""
        try:
            while step := self._steps.get(payment.status):
                move = await step(payment)
                [moved] = await self._database.transaction(partial(self._move, moves=[move]))
                payment = unwrap_race(moved)
        except LostRace:
            return await self._read(payment.order_id)
        except GatewayUnavailable as error:
            delay_s = backoff_s(payment.attempts + 1, self._settings.retry_first_s, self._settings.retry_most_s)
            log.warning("payment_unknown", order_id=payment.order_id, status=payment.status, error=str(error))
            await self._database.transaction(partial(queries.mark_postponed, payment=payment, delay_s=delay_s))
        return payment

    async def _advance_or_error(self, payment: PaymentRow) -> PaymentRow | ServiceError:
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
        refunds = await self._database.read(partial(queries.get_open_refunds, order_id=payment.order_id))
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

    async def _read(self, order_id: str) -> PaymentRow:
        found = await self._database.read(partial(queries.get_payments, order_ids=[order_id]))
        if order_id not in found:
            raise PaymentNotFound(f"There is no payment for order {order_id}.")
        return found[order_id]

    async def _decide_refund(self, tx: Transaction, *, wanted: RefundPayment) -> PaymentRow:
        payment = (await queries.lock_payments(tx, [wanted.order_id])).get(wanted.order_id)
        if payment is None:
            raise PaymentNotFound(f"There is no payment for order {wanted.order_id}.")
        if wanted.request_id and await queries.get_refund_of_request(tx, wanted.order_id, wanted.request_id):
            return payment
        if PaymentStatus.REFUNDING not in domain.TRANSITIONS[payment.status]:
            raise NothingCaptured(f"The payment is {payment.status}; there is nothing to refund.")
        amount = wanted.amount or payment.refundable
        if not 0 < amount <= payment.refundable:
            raise RefundExceedsCharge(
                f"{payment.refundable} of {payment.amount} {payment.currency} can still be refunded, not {amount}.",
                refundable=payment.refundable,
            )
        move = Move(payment, PaymentStatus.REFUNDING, "refund", refund=amount, refund_request_id=wanted.request_id)
        [moved] = await self._move(tx, moves=[move])
        return unwrap_race(moved)

    async def _decide_cancel(self, tx: Transaction, *, order_id: str) -> PaymentRow:
        if await queries.insert_void(tx, order_id, str(uuid7())):
            await queries.insert_events(
                tx, [(order_id, 1, PaymentStatus.VOIDED, 0, "order_cancelled", trace_context.get())]
            )
        payment = (await queries.lock_payments(tx, [order_id]))[order_id]
        if payment.status is PaymentStatus.PENDING:
            move = Move(payment, PaymentStatus.CANCELLING, "order_cancelled")
        elif payment.status in (PaymentStatus.CAPTURED, PaymentStatus.REFUNDING) and payment.refundable:
            move = Move(payment, PaymentStatus.REFUNDING, "order_cancelled", refund=payment.refundable)
        else:
            return payment
        [moved] = await self._move(tx, moves=[move])
        return unwrap_race(moved)

    async def _move(self, tx: Transaction, *, moves: Sequence[Move]) -> list[PaymentRow | LostRace]:
        """Write the transitions and their events; a payment that is no longer as it was read is left alone."""
        held = await queries.lock_payments(tx, [move.payment.order_id for move in moves])
        won = [move for move in moves if held[move.payment.order_id].version == move.payment.version]
        for move in won:
            await self._write(tx, move)
        await queries.insert_events(
            tx,
            [
                (
                    *(move.payment.order_id, move.payment.last_seq + 1, move.to),
                    *(move.refund or move.payment.amount, move.reason, trace_context.get()),
                )
                for move in won
            ],
        )
        changed = await queries.get_payments(tx, [move.payment.order_id for move in won]) if won else {}
        return [changed.get(move.payment.order_id) or LostRace(move.payment.order_id) for move in moves]

    async def _write(self, tx: Transaction, move: Move) -> None:
        order_id = move.payment.order_id
        if move.refund:
            await queries.insert_refund(tx, order_id, move.refund, move.refund_request_id)
        if move.refunds_done:
            await queries.mark_refunds_done(tx, order_id, move.refunds_done)
        await queries.change_payments(
            tx,
            [order_id],
            move.to,
            reason=move.reason,
            refund=move.refund,
            lease_s=self._settings.lease_s if move.to in domain.OUTSTANDING else None,
        )


async def _open(
    tx: Transaction, *, items: Sequence[tuple[str, CreatePayment]], lease_s: float
) -> dict[str, PaymentRow]:
    """Write down every charge before the gateway hears of it; an order that has a payment keeps that one."""
    await queries.insert_payments(tx, items, lease_s)
    payments = await queries.get_payments(tx, [item.order_id for _, item in items])
    own = [item for payment_id, item in items if payments[item.order_id].payment_id == payment_id]
    # When all of these are there already, an earlier run of this transaction took effect after all.
    with contextlib.suppress(DuplicateKey):
        await queries.insert_events(
            tx, [(item.order_id, 1, PaymentStatus.PENDING, item.amount, None, trace_context.get()) for item in own]
        )
    return payments


def unwrap_race(outcome: PaymentRow | LostRace) -> PaymentRow:
    if isinstance(outcome, LostRace):
        raise outcome
    return outcome
