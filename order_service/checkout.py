"""The checkout: an order is driven from step to step, each decided before it is written."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from uuid_utils import uuid7

from common import context, tracing
from common.batching import Batcher, StillRunning, as_outcome
from common.clients import AsyncInventoryClient, AsyncPaymentClient
from common.contracts.orders import CreateOrder, OrderStatus
from common.contracts.payments import Payment, PaymentStatus
from common.crash_points import CrashPoints
from common.errors import DeadlineExceeded, IdempotencyMismatch, Overloaded, RequestInProgress, ServiceError
from common.telemetry import bind_orders, log
from common.versioned import LostRace
from order_service import domain
from order_service.domain import Move, NewOrder, OrderRow
from order_service.handoff import Handoff, StillUnknown
from order_service.metrics import OrderMetrics, Step
from order_service.orders import Orders
from order_service.purchase import Begun, Decision, Purchases, settle
from order_service.settings import Settings

MONEY_RETURNED = {PaymentStatus.DECLINED, PaymentStatus.VOIDED, PaymentStatus.REFUNDED}


@dataclass(frozen=True)
class Placed:
    """What became of a request to place an order: the order as it stands, and the error if it failed."""

    order: OrderRow
    failure: ServiceError | None
    replayed: bool


class Checkout:
    def __init__(
        self,
        orders: Orders,
        purchases: Purchases,
        moves: Batcher[Move, OrderRow],
        inventory: AsyncInventoryClient,
        payments: AsyncPaymentClient,
        handoff: Handoff,
        settings: Settings,
        metrics: OrderMetrics,
        reached: CrashPoints,
    ) -> None:
        self._orders = orders
        self._purchases = purchases
        self._moves = moves
        self._inventory = inventory
        self._payments = payments
        self._handoff = handoff
        self._timeout_s = settings.checkout_timeout_s
        self._measured = metrics.measured
        self._reached = reached
        self._drivers: set[asyncio.Task[OrderRow]] = set()
        # New orders on their way. Of callers who wait there are no more than the service has places; as many orders
        # again may go on without theirs.
        self._at_work: set[str] = set()
        self._at_work_max = 2 * settings.requests_in_flight_max
        self._steps: dict[OrderStatus, Callable[[OrderRow], Awaitable[Move]]] = {
            OrderStatus.CREATED: self._purchase,
            OrderStatus.INVENTORY_RESERVED: self._charge,
            OrderStatus.PAID: self._complete,
            OrderStatus.FAILING: self._release,
            OrderStatus.CANCELLING: self._undo,
        }

    async def place(self, user_id: str, wanted: CreateOrder, idempotency_key: str | None) -> Placed:
        """Accept an order and drive it as far as it goes; a repeated request is answered as the first one was.

        Raises IdempotencyMismatch, RequestInProgress, DeadlineExceeded and Overloaded.
        """
        if len(self._at_work) >= self._at_work_max:
            raise Overloaded("Too many orders go on whose callers have left.", retry_after_s=1)
        answer_by = self._answer_by()
        new = NewOrder.of(str(uuid7()), user_id, wanted, idempotency_key)
        bind_orders(new.order_id)
        order = await self._place(new, answer_by)
        bind_orders(order.order_id)
        replayed = order.order_id != new.order_id
        if replayed:
            _check_replay(order, new)
        events = await self._orders.events(order.order_id) if domain.may_have_failed(order) else []
        return Placed(order, domain.failure(order, events), replayed)

    async def cancel(self, order_id: str, asked: str, *, owner: str | None = None) -> OrderRow:
        """Take back an order: refund its money, return its stock. Until both are done it is ``cancelling``.

        With ``owner``, other users' orders count as missing.

        Raises OrderNotFound, InvalidTransition and DeadlineExceeded.
        """
        bind_orders(order_id)
        answer_by = self._answer_by()
        return await self._drive(await self._orders.begin_cancel(order_id, asked, owner=owner), answer_by)

    async def drain(self) -> None:
        """Wait for every order that was taken in, and for those that are driven after their request was answered."""
        await self._purchases.drain()
        while self._drivers:
            await asyncio.wait(self._drivers)
        await self._moves.drain()

    def _answer_by(self) -> float:
        """Until when the caller waits, by the monotonic clock, which is the event loop's."""
        return time.monotonic() + context.seconds_to_answer(self._timeout_s)

    async def _place(self, new: NewOrder, answer_by: float) -> OrderRow:
        self._at_work.add(new.order_id)
        try:
            begun = await self._purchases.submit(new, answer_by, partial(self._go_on_without_caller, new.order_id))
        except StillRunning:
            return await self._look_at(new.order_id)
        except Exception:
            self._at_work.discard(new.order_id)
            raise
        if begun.goes_on:
            return await self._drive(begun.order, answer_by)
        self._at_work.discard(new.order_id)
        return begun.order

    def _go_on_without_caller(self, order_id: str, outcome: Begun | Exception) -> None:
        if isinstance(outcome, Begun) and outcome.goes_on:
            self._start_driver(outcome.order)
            return
        self._at_work.discard(order_id)
        if isinstance(outcome, Exception):
            _log_not_driven(order_id, outcome)

    async def _drive(self, order: OrderRow, answer_by: float) -> OrderRow:
        """Advance the order while its caller waits; if that takes too long, go on without it.

        Raises DeadlineExceeded.
        """
        driver = self._start_driver(order)
        await asyncio.wait([driver], timeout=max(0.0, answer_by - time.monotonic()))
        return driver.result() if driver.done() else await self._look_at(order.order_id)

    def _start_driver(self, order: OrderRow) -> "asyncio.Task[OrderRow]":
        driver = asyncio.create_task(self.advance(order))
        self._drivers.add(driver)
        driver.add_done_callback(partial(self._driven, order.order_id))
        return driver

    def _driven(self, order_id: str, driver: "asyncio.Task[OrderRow]") -> None:
        self._drivers.discard(driver)
        self._at_work.discard(order_id)
        # Its caller may have been answered, and nobody else would hear of it.
        if not driver.cancelled() and (error := driver.exception()) is not None:
            _log_not_driven(order_id, error)

    async def _look_at(self, order_id: str) -> OrderRow:
        """The order, if it can be had in what is left of the caller's time."""
        try:
            async with asyncio.timeout(min(context.seconds_left(self._timeout_s), 0.1 * self._timeout_s)):
                return await self._orders.get(order_id)
        except (ServiceError, TimeoutError):
            raise DeadlineExceeded(
                f"It is not known yet what becomes of the order {order_id}: ask for it later, or repeat the request "
                "with the same Idempotency-Key.",
                order_id=order_id,
            ) from None

    async def advance(self, order: OrderRow) -> OrderRow:
        """Drive an order until it is final, or nobody knows, or somebody else drives it.

        Requests and recovery come through here alike.
        """
        # What was accepted is carried out, also when its caller waits no longer.
        context.set_deadline(None)
        try:
            while step := self._steps.get(order.status):
                with tracing.span(f"step {order.status}", attributes={"vv.order_id": order.order_id}):
                    order = await self._moves.submit(await step(order))
        except (LostRace, StillUnknown, ServiceError) as error:
            return await self._handoff.leave(order, error)
        return order

    async def _purchase(self, order: OrderRow) -> Move:
        return _or_raise(await self._purchases.decide_alone(order))

    async def _charge(self, order: OrderRow) -> Move:
        """Wait for the charge of this order alone."""
        self._reached("inventory_reserved")
        charge = self._payments.create(**order.charge.model_dump(exclude={"trace"}))
        try:
            outcome: Payment | ServiceError = await self._measured(Step.CHARGE, charge)
        except ServiceError as error:
            outcome = error
        return _or_raise(settle(order, outcome))

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
            await self._measured(Step.RETURN_STOCK, self._inventory.rollback(order.deduct_key))
        except ServiceError as error:
            raise StillUnknown("return_stock", error) from None

    async def _return_money(self, order: OrderRow) -> Payment:
        try:
            return await self._measured(Step.RETURN_MONEY, self._payments.cancel(order.order_id))
        except ServiceError as error:
            raise StillUnknown("refund", error) from None


def _or_raise(decision: Decision) -> Move:
    if isinstance(decision, StillUnknown):
        raise decision
    return decision


def _log_not_driven(order_id: str, why: BaseException) -> None:
    log.warning("order_not_driven", order_id=order_id, code=as_outcome(why).code)


def _check_replay(order: OrderRow, new: NewOrder) -> None:
    if order.fingerprint != new.fingerprint:
        raise IdempotencyMismatch("This Idempotency-Key was used before for another order.")
    if order.is_running:
        raise RequestInProgress(
            "The first request with this Idempotency-Key is still running.", retry_after_s=1, order_id=order.order_id
        )
