"""The payment book: each method is one transaction. Writes take lists and give one outcome an item, in order."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from uuid_utils import uuid7

from common.backlog import BacklogCount
from common.context import sampled_trace
from common.contracts.payments import (
    NothingCaptured,
    PaymentNotFound,
    PaymentStatus,
    PaymentUnresolved,
    RefundExceedsCharge,
    RefundPayment,
)
from common.database import Database
from common.errors import IdempotencyMismatch, ServiceError
from common.transaction import Answer, DuplicateKey, Transaction, utc
from common.versioned import LostRace, write_moves
from payment_service import domain, queries
from payment_service.domain import Move, NewPayment, PaymentRow, Refund


@dataclass(frozen=True)
class Begun:
    """A payment, and whether this request must drive it on; not when an earlier one does already."""

    payment: PaymentRow
    is_new: bool


class Payments:
    """Payments that are being driven are leased for ``lease_s`` seconds."""

    def __init__(self, database: Database, lease_s: float) -> None:
        self._database = database
        self._lease_s = lease_s

    async def open(self, items: Sequence[NewPayment]) -> list[PaymentRow]:
        """Write down charges before the gateway hears of them. Outcomes: the payment, or the one the order has."""
        try:
            return await self._database.transaction(partial(_open_all, items=items, lease_s=self._lease_s))
        except DuplicateKey:
            return await self._database.transaction(partial(_open_new, items=items, lease_s=self._lease_s))

    async def move(self, moves: Sequence[Move]) -> list[PaymentRow | LostRace | ServiceError]:
        """Write transitions with their events. Outcomes as of :func:`common.versioned.write_moves`."""
        write = partial(_write_moves, lease_s=self._lease_s)
        return await self._database.transaction(
            partial(write_moves, moves=moves, write=write, lock_free=queries.lock_free_payments)
        )

    async def poll(self, order_ids: Sequence[str]) -> list[PaymentRow | None]:
        """Outcomes: the payment, or None while its first driver is still at work."""
        left = await self._database.read(partial(queries.get_left, order_ids=order_ids, lease_s=self._lease_s))
        return [left.get(order_id) for order_id in order_ids]

    async def begin_refund(self, wanted: RefundPayment, *, owner: str | None = None) -> Begun:
        """Promise money back, once per request_id. With ``owner``, other users' payments count as missing.

        Raises PaymentNotFound, PaymentUnresolved, NothingCaptured, RefundExceedsCharge, IdempotencyMismatch.
        """
        # An id also when the caller has none: the transaction may be run again after a COMMIT of unknown outcome.
        request_id = wanted.request_id or str(uuid7())
        return await self._database.transaction(
            partial(_begin_refund, wanted=wanted, request_id=request_id, lease_s=self._lease_s, owner=owner)
        )

    async def begin_cancel(self, order_id: str) -> Begun:
        """Decide that the order is not charged; whoever drives its payment loses it."""
        return await self._database.transaction(partial(_begin_cancel, order_id=order_id, lease_s=self._lease_s))

    async def postpone(self, payment: PaymentRow, delay_s: float, times_not_found: int) -> None:
        """Leave the payment to recovery, after ``delay_s`` seconds; ``times_not_found`` is remembered with it."""
        postponed = partial(queries.mark_postponed, payment=payment, delay_s=delay_s, times_not_found=times_not_found)
        await self._database.transaction(postponed)

    async def confirm_refund(self, order_id: str, n: int) -> None:
        """Note that the gateway made the order's refund number ``n``."""
        await self._database.transaction(partial(queries.mark_refund_done, order_id=order_id, n=n))

    async def get(self, order_id: str, *, owner: str | None = None) -> PaymentRow:
        """With ``owner``, other users' payments count as missing. Raises PaymentNotFound."""
        return await self._database.read(partial(_get, order_id=order_id, owner=owner))

    async def count_unfinished(self) -> dict[str, BacklogCount]:
        return await self._database.read(queries.count_unfinished)

    async def open_refunds(self, order_id: str) -> list[Refund]:
        """The refunds that the gateway has not confirmed yet."""
        return await self._database.read(partial(queries.get_open_refunds, order_id=order_id))


async def _open_all(tx: Transaction, *, items: Sequence[NewPayment], lease_s: float) -> list[PaymentRow]:
    """In one round trip. Raises DuplicateKey when one of the orders has a payment."""
    if tx.is_rerun:
        # Somebody may hold one of the payments: reading it does not wait for the lock.
        return await _open_new(tx, items=items, lease_s=lease_s)
    queries.insert_payments(tx, items, lease_s)
    written_at = queries.get_updated_at(tx, items[0].order_id)
    _write_beginnings(tx, items)
    await tx.commit()
    return [item.opened(utc(written_at.value)) for item in items]


async def _open_new(tx: Transaction, *, items: Sequence[NewPayment], lease_s: float) -> list[PaymentRow]:
    """Those of orders that have none."""
    payments = await queries.get_payments(tx, [item.order_id for item in items])
    new = [item for item in items if item.order_id not in payments]
    if new:
        queries.insert_payments(tx, new, lease_s, or_leave=True)
        payments |= await queries.get_payments(tx, [item.order_id for item in new])
    _write_beginnings(tx, [item for item in items if payments[item.order_id].payment_id == item.payment_id])
    # When these are there already, an earlier run of this transaction took effect after all.
    with contextlib.suppress(DuplicateKey):
        await tx.commit()
    return [payments[item.order_id] for item in items]


def _write_beginnings(tx: Transaction, items: Sequence[NewPayment]) -> None:
    queries.insert_events(
        tx, [(item.order_id, 1, PaymentStatus.PENDING, item.wanted.amount, None, item.trace) for item in items]
    )


async def _get(tx: Transaction, *, order_id: str, owner: str | None) -> PaymentRow:
    return _found(await queries.get_payments(tx, [order_id]), order_id, owner)


def _found(payments: Mapping[str, PaymentRow], order_id: str, owner: str | None) -> PaymentRow:
    """Another user's payment is answered like one that does not exist."""
    payment = payments.get(order_id)
    if payment is None or owner not in (None, payment.user_id):
        raise PaymentNotFound(f"There is no payment for order {order_id}.")
    return payment


async def _begin_refund(
    tx: Transaction, *, wanted: RefundPayment, request_id: str, lease_s: float, owner: str | None
) -> Begun:
    if owner is not None:
        # Before the lock: who waits for that of another's payment, or holds it, can tell that there is one.
        await _get(tx, order_id=wanted.order_id, owner=owner)
    payment = _found(await queries.lock_payments(tx, [wanted.order_id]), wanted.order_id, owner)
    earlier = await queries.get_refund_of_request(tx, wanted.order_id, request_id)
    if earlier is not None and wanted.amount not in (None, earlier.amount):
        raise IdempotencyMismatch(f"The request_id {request_id} was used before for another amount.")
    if earlier is not None:
        return Begun(payment, is_new=tx.was_lost)
    if payment.status in (PaymentStatus.PENDING, PaymentStatus.CANCELLING):
        raise PaymentUnresolved("Nobody knows yet whether the order was charged; try again later.", retry_after_s=1)
    if payment.status not in (PaymentStatus.CAPTURED, PaymentStatus.REFUNDING):
        raise NothingCaptured(f"The payment is {payment.status}; there is nothing to refund.")
    amount = wanted.amount or payment.refundable
    if not 0 < amount <= payment.refundable:
        raise RefundExceedsCharge(
            f"{payment.refundable} of {payment.amount} can still be refunded, not {amount} "
            f"(in minor units of {payment.currency}).",
            refundable=payment.refundable,
        )
    move = Move(payment, PaymentStatus.REFUNDING, "refund", refund=amount, refund_request_id=request_id)
    return Begun(await _move_one(tx, move, lease_s), is_new=True)


async def _begin_cancel(tx: Transaction, *, order_id: str, lease_s: float) -> Begun:
    if await queries.insert_void(tx, order_id, str(uuid7())):
        queries.insert_events(tx, [(order_id, 1, PaymentStatus.VOIDED, 0, domain.ORDER_CANCELLED, sampled_trace())])
    payment = (await queries.lock_payments(tx, [order_id]))[order_id]
    if payment.status is PaymentStatus.PENDING:
        move = Move(payment, PaymentStatus.CANCELLING, domain.ORDER_CANCELLED)
    elif payment.status in (PaymentStatus.CAPTURED, PaymentStatus.REFUNDING) and payment.refundable:
        move = Move(payment, PaymentStatus.REFUNDING, domain.ORDER_CANCELLED, refund=payment.refundable)
    else:
        return Begun(payment, is_new=tx.was_lost)
    return Begun(await _move_one(tx, move, lease_s), is_new=True)


async def _move_one(tx: Transaction, move: Move, lease_s: float) -> PaymentRow:
    """A move of a payment that this transaction holds, and that therefore cannot lose."""
    return (await _write_moves(tx, [move], lease_s=lease_s))[move.key]


async def _write_moves(tx: Transaction, moves: Sequence[Move], *, lease_s: float) -> dict[str, PaymentRow]:
    groups: dict[tuple[PaymentStatus, str | None, int, int], list[str]] = {}
    for move in moves:
        key = (move.to, move.reason, move.version, move.refund)
        groups.setdefault(key, []).append(move.key)
    written_at: dict[str, Answer] = {}
    for (status, reason, version, refund), order_ids in groups.items():
        lease = lease_s if status in domain.OUTSTANDING else None
        queries.change_payments(tx, order_ids, status, reason=reason, version=version, refund=refund, lease_s=lease)
        written_at |= dict.fromkeys(order_ids, queries.get_updated_at(tx, order_ids[0]))
    queries.insert_events(tx, [move.event for move in moves])
    await queries.insert_refunds(tx, {move.key: (move.refund_request_id, move.refund) for move in moves if move.refund})
    await tx.commit()
    return {move.key: move.taken(utc(written_at[move.key].value)) for move in moves}
