"""The checkout: an order is driven from step to step, each decided before it is written."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from uuid_utils import uuid7

from common import context
from common.background import CrashPoints
from common.batching import Batcher
from common.clients import AsyncPaymentClient
from common.contracts.inventory import (
    DecreaseStock,
    OutOfStock,
    RollbackStock,
    SkuNotFound,
    StockChange,
    StockRequestRolledBack,
)
from common.contracts.orders import CreateOrder, OrderStatus
from common.contracts.payments import CreatePayment, Payment, PaymentCancelled, PaymentDeclined, PaymentStatus
from common.errors import IdempotencyMismatch, RequestInProgress, ServiceError
from common.recovery import backoff_s
from common.telemetry import bind_orders, log
from order_service import domain
from order_service.domain import LostRace, Move, NewOrder, OrderRow
from order_service.orders import Orders
from order_service.settings import Settings

# The refusals that decide about an order. Any other error, even a 4xx, says nothing about stock or money.
# IdempotencyMismatch: somebody else has used the order's key for something of his own, which is not to be touched.
NO_STOCK = (OutOfStock, SkuNotFound, StockRequestRolledBack, IdempotencyMismatch)
NO_MONEY = (PaymentDeclined, PaymentCancelled, IdempotencyMismatch)
MONEY_RETURNED = {PaymentStatus.DECLINED, PaymentStatus.VOIDED, PaymentStatus.REFUNDED}


class StillUnknown(Exception):
    """A remote call has no definite outcome yet."""


@dataclass(frozen=True)
class Placed:
    """What became of a request to place an order: the order as it stands, and the error if it failed."""

    order: OrderRow
    failure: ServiceError | None
    replayed: bool


@dataclass(frozen=True)
class Batches:
    """What orders share with each other: transactions of their own database, and calls to the other services."""

    accept: Batcher[NewOrder, OrderRow]
    move: Batcher[Move, OrderRow]
    reserve: Batcher[DecreaseStock, StockChange]
    release: Batcher[RollbackStock, StockChange]
    charge: Batcher[CreatePayment, Payment]

    async def drain(self) -> None:
        for batcher in (self.accept, self.move, self.reserve, self.release, self.charge):
            await batcher.drain()


class Checkout:
    def __init__(
        self,
        orders: Orders,
        batches: Batches,
        payments: AsyncPaymentClient,
        settings: Settings,
        reached: CrashPoints,
    ) -> None:
        self._orders = orders
        self._batches = batches
        self._payments = payments
        self._settings = settings
        self._reached = reached
        self._drivers: set[asyncio.Task[OrderRow]] = set()
        self._steps: dict[OrderStatus, Callable[[OrderRow], Awaitable[Move]]] = {
            OrderStatus.CREATED: self._reserve_and_charge,
            OrderStatus.INVENTORY_RESERVED: self._charge,
            OrderStatus.PAID: self._complete,
            OrderStatus.FAILING: self._release,
            OrderStatus.CANCELLING: self._undo,
        }

    async def place(self, wanted: CreateOrder, idempotency_key: str | None) -> Placed:
        """Accept an order and drive it as far as it goes; a repeated request is answered as the first one was.

        Raises IdempotencyMismatch and RequestInProgress.
        """
        new = NewOrder.of(str(uuid7()), wanted, idempotency_key)
        order = await self._batches.accept.submit(new)
        bind_orders(order.order_id)
        replayed = order.order_id != new.order_id
        if replayed:
            _check_replay(order, new)
        else:
            self._reached("created")
            order = await self._drive(order)
        events = await self._orders.events(order.order_id) if domain.may_have_failed(order) else []
        return Placed(order, domain.failure(order, events), replayed)

    async def cancel(self, order_id: str, asked: str) -> OrderRow:
        """Take back an order: refund its money, return its stock. Until both are done it is ``cancelling``.

        Raises OrderNotFound and InvalidTransition.
        """
        bind_orders(order_id)
        return await self._drive(await self._orders.begin_cancel(order_id, asked))

    @property
    def under_way(self) -> int:
        """How many orders are being driven now."""
        return len(self._drivers)

    async def drain(self) -> None:
        """Wait for the orders that are being driven after their request was answered."""
        while self._drivers:
            await asyncio.wait(self._drivers)

    async def _drive(self, order: OrderRow) -> OrderRow:
        """Advance the order while its caller waits; if that takes too long, go on without him."""
        driver = asyncio.create_task(self.advance(order))
        self._drivers.add(driver)
        driver.add_done_callback(self._drivers.discard)
        await asyncio.wait([driver], timeout=self._settings.checkout_timeout_s)
        return driver.result() if driver.done() else await self._orders.get(order.order_id)

    async def advance(self, order: OrderRow) -> OrderRow:
        """Drive an order until it is final, or nobody knows, or somebody else drives it.

        Requests and recovery come through here alike.
        """
        # What was accepted is carried out, also when its caller waits no longer.
        context.set_deadline(None)
        try:
            while step := self._steps.get(order.status):
                order = await self._batches.move.submit(await step(order))
        except LostRace:
            return await self._orders.get(order.order_id)
        except StillUnknown as error:
            await self._postpone(order, error)
        except ServiceError as error:
            # Our own database: the lease runs out and recovery goes on.
            log.warning("order_left_to_recovery", order_id=order.order_id, code=error.code)
        return order

    async def _reserve_and_charge(self, order: OrderRow) -> Move:
        """The whole purchase, if it is decided at once. If it is not, what is known so far is written down first."""
        try:
            await self._batches.reserve.submit(
                DecreaseStock(items=order.stock_lines, request_id=order.deduct_key, order_id=order.order_id)
            )
        except NO_STOCK as refusal:
            return Move.because_of(refusal, order, OrderStatus.FAILED)
        except ServiceError as error:
            raise StillUnknown("reserve") from error
        self._reached("stock_taken")
        try:
            payment = self._batches.charge.submit(order.charge)
            return await self._settle(order, payment, OrderStatus.INVENTORY_RESERVED)
        except StillUnknown:
            return Move(order, (OrderStatus.INVENTORY_RESERVED,))

    async def _charge(self, order: OrderRow) -> Move:
        """Wait for the charge of this order alone."""
        self._reached("inventory_reserved")
        return await self._settle(order, self._payments.create(**order.charge.model_dump()))

    async def _settle(self, order: OrderRow, payment: Awaitable[Payment], *so_far: OrderStatus) -> Move:
        try:
            outcome = await payment
        except NO_MONEY as refusal:
            return Move.because_of(refusal, order, *so_far, OrderStatus.FAILING)
        except ServiceError as error:
            raise StillUnknown("charge") from error
        if outcome.status is PaymentStatus.REFUNDED:
            refunded = PaymentCancelled("The payment was refunded before the order was completed.")
            return Move.because_of(refunded, order, *so_far, OrderStatus.FAILING)
        if outcome.status is not PaymentStatus.CAPTURED:
            raise StillUnknown("charge")
        self._reached("charged")
        # Nothing remains to be done between the two, so they are written together.
        return Move(order, (*so_far, OrderStatus.PAID, OrderStatus.COMPLETED))

    async def _complete(self, order: OrderRow) -> Move:
        return Move(order, (OrderStatus.COMPLETED,))

    async def _release(self, order: OrderRow) -> Move:
        self._reached("failing")
        await self._return_stock(order)
        self._reached("stock_released")
        return Move(order, (OrderStatus.FAILED,), order.reason)

    async def _undo(self, order: OrderRow) -> Move:
        self._reached("cancelling")
        payment = await self._return_money(order)
        if payment.status not in MONEY_RETURNED:
            raise StillUnknown("refund")
        self._reached("money_returned")
        await self._return_stock(order)
        self._reached("stock_returned")
        return Move(order, (OrderStatus.CANCELLED,), order.reason)

    async def _return_stock(self, order: OrderRow) -> None:
        try:
            await self._batches.release.submit(RollbackStock(request_id=order.deduct_key))
        except ServiceError as error:
            raise StillUnknown("return_stock") from error

    async def _return_money(self, order: OrderRow) -> Payment:
        try:
            return await self._payments.cancel(order.order_id)
        except ServiceError as error:
            raise StillUnknown("refund") from error

    async def _postpone(self, order: OrderRow, error: StillUnknown) -> None:
        delay_s = backoff_s(order.attempts + 1, self._settings.retry_first_s, self._settings.retry_most_s)
        cause = error.__cause__.code if isinstance(error.__cause__, ServiceError) else "pending"
        log.warning("order_unknown", order_id=order.order_id, step=str(error), cause=cause, next_in_s=delay_s)
        # If this fails, too, the lease runs out by itself.
        with contextlib.suppress(ServiceError):
            await self._orders.postpone(order, delay_s)


def _check_replay(order: OrderRow, new: NewOrder) -> None:
    if order.fingerprint != new.fingerprint:
        raise IdempotencyMismatch("This Idempotency-Key was used before for another order.")
    if order.is_running:
        raise RequestInProgress(
            "The first request with this Idempotency-Key is still running.", retry_after_s=1, order_id=order.order_id
        )
