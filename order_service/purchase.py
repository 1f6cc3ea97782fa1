"""The purchase: orders are accepted, reserved and charged together, and what became of them is written together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from common import context, tracing
from common.batching import Batcher, as_outcome, run_in_halves
from common.clients import AsyncInventoryClient, AsyncPaymentClient
from common.contracts.inventory import (
    DecreaseStock,
    OutOfStock,
    SkuNotFound,
    StockChange,
    StockLocked,
    StockRequestRolledBack,
)
from common.contracts.orders import FINAL, OrderStatus
from common.contracts.payments import CreatePayment, Payment, PaymentCancelled, PaymentDeclined, PaymentStatus
from common.crash_points import CrashPoints
from common.errors import IdempotencyMismatch, ServiceError
from common.telemetry import Metrics
from order_service.domain import Move, NewOrder, OrderRow
from order_service.handoff import Handoff, StillUnknown
from order_service.metrics import OrderMetrics, Step
from order_service.orders import Orders
from order_service.settings import Settings

# The refusals that decide about an order. Any other error, even a 4xx, says nothing about stock or money.
# IdempotencyMismatch: somebody else has used the order's key for something else, which is not to be touched.
NO_STOCK = (OutOfStock, SkuNotFound, StockRequestRolledBack, IdempotencyMismatch)
NO_MONEY = (PaymentDeclined, PaymentCancelled, IdempotencyMismatch)

Decision: TypeAlias = Move | StillUnknown
TakeStock: TypeAlias = Callable[[Sequence[DecreaseStock]], Awaitable[Sequence[StockChange | ServiceError]]]
TakeMoney: TypeAlias = Callable[[Sequence[CreatePayment]], Awaitable[Sequence[Payment | ServiceError]]]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Begun:
    """An order as the purchase left it, and whether whoever placed it is to drive it on."""

    order: OrderRow
    goes_on: bool


class Purchases:
    """Group commit for whole purchases: few groups at a time, not counting those that wait for something slow."""

    def __init__(
        self,
        orders: Orders,
        inventory: AsyncInventoryClient,
        payments: AsyncPaymentClient,
        handoff: Handoff,
        settings: Settings,
        metrics: Metrics,
        order_metrics: OrderMetrics,
        reached: CrashPoints,
    ) -> None:
        self._metrics = order_metrics
        self._orders = orders
        self._inventory = inventory
        self._payments = payments
        self._handoff = handoff
        self._timeout_s = settings.checkout_timeout_s
        self._reached = reached
        self._batcher: Batcher[NewOrder, Begun] = Batcher(
            "begin", self.begin, settings, metrics, in_flight_max=settings.purchases_in_flight_max
        )

    async def submit(self, new: NewOrder, until: float, late: Callable[[Begun | Exception], None]) -> Begun:
        """As :meth:`begin` for one order, in a group with whatever else comes now.

        Raises StillRunning at ``until``, as :meth:`Batcher.submit_until` does.
        """
        return await self._batcher.submit_until(new, until, late)

    async def drain(self) -> None:
        """Wait until every order that was submitted has its outcome."""
        await self._batcher.drain()

    async def begin(self, new: Sequence[NewOrder]) -> list[Begun]:
        """Accept orders, and purchase those that are new. An earlier order that has the same key is left as it is.

        Lists in, one outcome an item out, in order. One order is a list of one.
        """
        with _step("accept", new), self._batcher.waiting():
            orders = await self._orders.accept(new)
        self._reached("created")
        # From here on all that is wanted of the callers' time is that they have an answer before it is over.
        context.set_deadline(self._timeout_s)
        # One that is written already, by a transaction whose reply was lost, may have been moved since.
        fresh = [
            order
            for item, order in zip(new, orders, strict=True)
            if order.order_id == item.order_id and order.status is OrderStatus.CREATED
        ]
        begun = await self._carry_out(fresh) if fresh else {}
        return [begun.get(order.order_id) or Begun(order, goes_on=False) for order in orders]

    async def decide_alone(self, order: OrderRow) -> Decision:
        """As :meth:`_decide` for one order, which waits for a SKU that somebody else holds."""
        decided = await self._decide([order], self._wait_for_stock, self._payments.create_batch)
        return decided[order.order_id]

    async def _decide(
        self, orders: Sequence[OrderRow], take_stock: TakeStock, take_money: TakeMoney
    ) -> dict[str, Decision]:
        """Take the stock and the money of orders; what to write of each, by its id.

        If a charge is not decided at once, it is written that the stock is taken.
        """
        decisions: dict[str, Decision] = {}
        reserved = []
        wanted = [
            DecreaseStock(items=order.stock_lines, request_id=order.deduct_key, order_id=order.order_id)
            for order in orders
        ]
        with _step("take stock", orders):
            stocks = await self._metrics.measured(Step.TAKE_STOCK, _each(take_stock, wanted))
        for order, stock in zip(orders, stocks, strict=True):
            if isinstance(stock, ServiceError):
                decisions[order.order_id] = _without_stock(order, stock)
            else:
                reserved.append(order)
        if reserved:
            self._reached("stock_taken")
        with _step("take money", reserved):
            asked = [order.charge for order in reserved]
            charges = await self._metrics.measured(Step.CHARGE, _each(take_money, asked))
        for order, charge in zip(reserved, charges, strict=True):
            decision = settle(order, charge, OrderStatus.INVENTORY_RESERVED)
            is_open = isinstance(decision, StillUnknown)
            decisions[order.order_id] = Move(order, (OrderStatus.INVENTORY_RESERVED,)) if is_open else decision
        return decisions

    async def _take_stock(self, wanted: Sequence[DecreaseStock]) -> Sequence[StockChange | ServiceError]:
        with self._batcher.waiting():
            return await self._inventory.decrease_batch(wanted)

    async def _take_money(self, wanted: Sequence[CreatePayment]) -> Sequence[Payment | ServiceError]:
        with self._batcher.waiting():
            return await self._payments.create_batch(wanted)

    async def _wait_for_stock(self, wanted: Sequence[DecreaseStock]) -> list[StockChange]:
        # A call for one waits for a SKU that somebody else holds; of a call for many that is left open.
        [one] = wanted
        return [await self._inventory.decrease(items=one.items, request_id=one.request_id, order_id=one.order_id)]

    async def _carry_out(self, orders: Sequence[OrderRow]) -> dict[str, Begun]:
        decided = await self._decide(orders, self._take_stock, self._take_money)
        moves = [decision for decision in decided.values() if isinstance(decision, Move)]
        if any(move.to is OrderStatus.COMPLETED for move in moves):
            self._reached("charged")
        with _step("write outcomes", moves), self._batcher.waiting():
            written = await run_in_halves(self._orders.move, moves)
        outcomes: dict[str, Decision | OrderRow | Exception] = {**decided}
        outcomes |= {move.key: outcome for move, outcome in zip(moves, written, strict=True)}
        begun = [_moved(outcome) for outcome in outcomes.values() if isinstance(outcome, OrderRow)]
        failures = [
            self._hand_off(order, outcome)
            for order in orders
            if isinstance(outcome := outcomes[order.order_id], Exception)
        ]
        with self._batcher.waiting():
            begun += await asyncio.gather(*failures)
        return {one.order.order_id: one for one in begun}

    async def _hand_off(self, order: OrderRow, why: Exception) -> Begun:
        if isinstance(why, StillUnknown) and isinstance(why.error, StockLocked):
            # Its group could not wait; it can.
            return Begun(order, goes_on=True)
        return Begun(await self._handoff.leave(order, why), goes_on=False)


def _moved(order: OrderRow) -> Begun:
    return Begun(order, goes_on=order.status not in FINAL)


def _step(name: str, orders: Sequence[object]) -> tracing.Traced:
    """A step of the checkout, which these orders take together."""
    return tracing.span(name, attributes={"vv.orders": len(orders)})


async def _each(
    run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]], items: Sequence[Item]
) -> list[Result | ServiceError]:
    return [as_outcome(outcome) for outcome in await run_in_halves(run, items)]


def _without_stock(order: OrderRow, error: ServiceError) -> Decision:
    if isinstance(error, NO_STOCK):
        return Move.because_of(error, order, OrderStatus.FAILED)
    return StillUnknown("reserve", error)


def settle(order: OrderRow, charge: Payment | ServiceError, *so_far: OrderStatus) -> Decision:
    """What follows from the answer to a charge; ``so_far`` are transitions that are written with it."""
    if isinstance(charge, NO_MONEY):
        return Move.because_of(charge, order, *so_far, OrderStatus.FAILING)
    if isinstance(charge, ServiceError):
        return StillUnknown("charge", charge)
    if charge.status is PaymentStatus.REFUNDED:
        refunded = PaymentCancelled("The payment was refunded before the order was completed.")
        return Move.because_of(refunded, order, *so_far, OrderStatus.FAILING)
    if charge.status is not PaymentStatus.CAPTURED:
        return StillUnknown("charge")
    # Nothing remains to be done between the two, so they are written together.
    return Move(order, (*so_far, OrderStatus.PAID, OrderStatus.COMPLETED))
