"""The order book: each method is one transaction. Writes take lists and give one outcome an item, in order."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from common.contracts.orders import OrderNotFound, OrderStatus
from common.database import Database
from common.transaction import DuplicateKey, Transaction
from order_service import domain, queries
from order_service.domain import EventRow, LostRace, Move, NewOrder, OrderRow


class Orders:
    """Orders that are being driven are leased for ``lease_s`` seconds; ``count`` is told each transition."""

    def __init__(self, database: Database, lease_s: float, count: Callable[[OrderStatus], None]) -> None:
        self._database = database
        self._lease_s = lease_s
        self._count = count

    async def accept(self, orders: Sequence[NewOrder]) -> list[OrderRow]:
        """Write new orders. Outcomes: the order, or the earlier one that has the same idempotency key."""
        outcomes = await self._database.transaction(partial(_accept, orders=orders, lease_s=self._lease_s))
        for new, outcome in zip(orders, outcomes, strict=True):
            if new.order_id == outcome.order_id:
                self._count(OrderStatus.CREATED)
        return outcomes

    async def move(self, moves: Sequence[Move]) -> list[OrderRow | LostRace]:
        """Write transitions with their events. Outcomes: the order as it is now, or LostRace."""
        outcomes = await self._database.transaction(partial(_move, moves=moves, lease_s=self._lease_s))
        for move, outcome in zip(moves, outcomes, strict=True):
            if isinstance(outcome, OrderRow):
                for status in move.path:
                    self._count(status)
        return outcomes

    async def begin_cancel(self, order_id: str, asked: str) -> OrderRow:
        """Decide that the order is taken back; whoever drives it loses it.

        Raises OrderNotFound and InvalidTransition.
        """
        order, move = await self._database.transaction(
            partial(_begin_cancel, order_id=order_id, asked=asked, lease_s=self._lease_s)
        )
        if move is not None:
            self._count(move.to)
        return order

    async def postpone(self, order: OrderRow, delay_s: float) -> None:
        """Leave the order to recovery, after ``delay_s`` seconds."""
        await self._database.transaction(partial(queries.mark_postponed, order=order, delay_s=delay_s))

    async def get(self, order_id: str) -> OrderRow:
        """Raises OrderNotFound."""
        return await self._database.read(partial(_get, order_id=order_id))

    async def events(self, order_id: str) -> list[EventRow]:
        """The timeline of an order, oldest first. Raises OrderNotFound."""
        events = await self._database.read(partial(queries.get_events, order_id=order_id))
        if not events:
            raise OrderNotFound(f"There is no order {order_id}.")
        return events

    async def find(
        self, *, user_id: str | None, status: OrderStatus | None, before: str | None, limit: int
    ) -> tuple[list[OrderRow], str | None]:
        """A page of orders, newest first, and the position before which the next page starts."""

        async def read(tx: Transaction) -> list[OrderRow]:
            found = await queries.list_orders(tx, user_id=user_id, status=status, before=before, limit=limit + 1)
            return await queries.with_lines(tx, found)

        found = await self._database.read(read)
        page = found[:limit]
        return page, page[-1].order_id if len(found) > limit else None

    async def count_unfinished(self) -> dict[OrderStatus, int]:
        return await self._database.read(queries.count_unfinished)


async def _accept(tx: Transaction, *, orders: Sequence[NewOrder], lease_s: float) -> list[OrderRow]:
    written = await _write(tx, orders, lease_s)
    outcomes = [written.get(order.order_id) or await _earlier(tx, order) for order in orders]
    new = [order for order in orders if order.order_id in written]
    queries.insert_lines(tx, new)
    queries.insert_events(tx, [(order.order_id, 1, OrderStatus.CREATED, None, None, order.trace) for order in new])
    # When these are there already, an earlier run of this transaction took effect after all.
    with contextlib.suppress(DuplicateKey):
        await tx.commit()
    return outcomes


async def _write(tx: Transaction, orders: Sequence[NewOrder], lease_s: float) -> dict[str, OrderRow]:
    """Those of the orders that are written now: all whose key is new."""
    count, created_at = await queries.insert_orders(tx, orders, lease_s)
    if created_at is not None and count == len(orders):
        return {order.order_id: order.accepted(created_at) for order in orders}
    found = await queries.get_orders(tx, [order.order_id for order in orders])
    return {
        order.order_id: replace(found[order.order_id], lines=order.lines) for order in orders if order.order_id in found
    }


async def _earlier(tx: Transaction, order: NewOrder) -> OrderRow:
    """The order that has the same key. It exists: it kept ours from being written."""
    assert order.idempotency_key is not None
    earlier = await queries.get_order_of_key(tx, order.wanted.user_id, order.idempotency_key)
    assert earlier is not None
    return (await queries.with_lines(tx, [earlier]))[0]


async def _get(tx: Transaction, *, order_id: str) -> OrderRow:
    found = await queries.with_lines(tx, list((await queries.get_orders(tx, [order_id])).values()))
    if not found:
        raise OrderNotFound(f"There is no order {order_id}.")
    return found[0]


async def _begin_cancel(tx: Transaction, *, order_id: str, asked: str, lease_s: float) -> tuple[OrderRow, Move | None]:
    found = await queries.lock_orders(tx, [order_id])
    if not found:
        raise OrderNotFound(f"There is no order {order_id}.")
    [order] = await queries.with_lines(tx, list(found.values()))
    move = domain.cancellation(order, asked)
    if move is None:
        return order, None
    [outcome] = await _move(tx, moves=[move], lease_s=lease_s)
    assert isinstance(outcome, OrderRow)
    return outcome, move


async def _move(tx: Transaction, *, moves: Sequence[Move], lease_s: float) -> list[OrderRow | LostRace]:
    versions, now = await queries.lock_versions(tx, [move.order.order_id for move in moves])
    won: dict[str, Move] = {}
    for move in moves:
        if move.order.version == versions[move.order.order_id]:
            # Of two moves of one order the later one has lost, as it would have in a transaction of its own.
            won.setdefault(move.order.order_id, move)
    groups: dict[tuple[OrderStatus, str | None, int], list[str]] = {}
    for move in won.values():
        groups.setdefault((move.to, move.reason, len(move.path)), []).append(move.order.order_id)
    for (status, reason, events), order_ids in groups.items():
        lease = None if status in domain.FINAL else lease_s
        queries.change_orders(tx, order_ids, status, reason=reason, events=events, lease_s=lease, now=now)
    queries.insert_events(
        tx,
        [(move.order.order_id, *event, move.trace) for move in won.values() for event in move.events],
    )
    return [
        move.taken(now) if won.get(move.order.order_id) is move else LostRace(move.order.order_id) for move in moves
    ]
