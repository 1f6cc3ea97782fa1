"""The order book: each method is one transaction. Writes take lists and give one outcome an item, in order."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from common.backlog import BacklogCount
from common.contracts.orders import FINAL, OrderNotFound, OrderStatus
from common.database import Database
from common.errors import ServiceError
from common.transaction import Answer, DuplicateKey, Transaction, utc
from common.versioned import LostRace, write_moves
from order_service import domain, queries
from order_service.domain import EventRow, Move, NewOrder, OrderRow
from order_service.metrics import OrderMetrics, Step
from order_service.queries import Key


class Orders:
    """Orders that are being driven are leased for ``lease_s`` seconds."""

    def __init__(self, database: Database, lease_s: float, metrics: OrderMetrics) -> None:
        self._database = database
        self._lease_s = lease_s
        self._metrics = metrics
        self._count = metrics.count

    async def accept(self, orders: Sequence[NewOrder]) -> list[OrderRow]:
        """Write new orders. Outcomes: the order, or the earlier one that has the same idempotency key."""
        outcomes = await self._metrics.measured(Step.ACCEPT, self._accept(orders), len(orders))
        for new, outcome in zip(orders, outcomes, strict=True):
            if new.order_id == outcome.order_id:
                self._count(OrderStatus.CREATED)
        return outcomes

    async def _accept(self, orders: Sequence[NewOrder]) -> list[OrderRow]:
        try:
            return await self._database.transaction(partial(_accept_all, orders=orders, lease_s=self._lease_s))
        except DuplicateKey:
            return await self._database.transaction(partial(_accept_new, orders=orders, lease_s=self._lease_s))

    async def move(self, moves: Sequence[Move]) -> list[OrderRow | LostRace | ServiceError]:
        """Write transitions with their events. Outcomes as of :func:`common.versioned.write_moves`."""
        write = partial(_write_moves, lease_s=self._lease_s)
        written = self._database.transaction(
            partial(write_moves, moves=moves, write=write, lock_free=queries.lock_free_orders)
        )
        outcomes = await self._metrics.measured(Step.WRITE, written, len(moves))
        for move, outcome in zip(moves, outcomes, strict=True):
            if isinstance(outcome, OrderRow):
                for status in move.path:
                    self._count(status)
        return outcomes

    async def begin_cancel(self, order_id: str, asked: str, *, owner: str | None = None) -> OrderRow:
        """Decide that the order is taken back; whoever drives it loses it. With ``owner``, other users' orders count as
        missing.

        Raises OrderNotFound and InvalidTransition.
        """
        order, move = await self._database.transaction(
            partial(_begin_cancel, order_id=order_id, asked=asked, lease_s=self._lease_s, owner=owner)
        )
        if move is not None:
            self._count(move.to)
        return order

    async def postpone(self, order: OrderRow, delay_s: float) -> None:
        """Leave the order to recovery, after ``delay_s`` seconds."""
        await self._database.transaction(partial(queries.mark_postponed, order=order, delay_s=delay_s))

    async def get(self, order_id: str, *, owner: str | None = None) -> OrderRow:
        """With ``owner``, other users' orders count as missing. Raises OrderNotFound."""
        return await self._database.read(partial(_get, order_id=order_id, owner=owner))

    async def events(self, order_id: str, *, owner: str | None = None) -> list[EventRow]:
        """The timeline of an order, oldest first. With ``owner``, other users' orders count as missing.

        Raises OrderNotFound.
        """
        return await self._database.read(partial(_events, order_id=order_id, owner=owner))

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

    async def count_unfinished(self) -> dict[str, BacklogCount]:
        return await self._database.read(queries.count_unfinished)


async def _accept_all(tx: Transaction, *, orders: Sequence[NewOrder], lease_s: float) -> list[OrderRow]:
    """In one round trip. Raises DuplicateKey when one of the keys is taken."""
    if tx.is_rerun:
        # Somebody may hold an order that has one of the keys: reading it does not wait for the lock.
        return await _accept_new(tx, orders=orders, lease_s=lease_s)
    queries.insert_orders(tx, orders, lease_s)
    written_at = queries.get_updated_at(tx, orders[0].order_id)
    _write_beginnings(tx, orders)
    await tx.commit()
    return [order.accepted(utc(written_at.value)) for order in orders]


async def _accept_new(tx: Transaction, *, orders: Sequence[NewOrder], lease_s: float) -> list[OrderRow]:
    """Those whose key is not taken."""
    taken = await _orders_of_keys(tx, orders)
    new = [order for order in orders if _key(order) not in taken]
    queries.insert_orders(tx, new, lease_s, or_leave=True)
    found = await queries.get_orders(tx, [order.order_id for order in new]) if new else {}
    written = {
        order.order_id: replace(row, lines=order.lines, trace=order.trace)
        for order in new
        if (row := found.get(order.order_id))
    }
    taken |= {_key(order): written[order.order_id] for order in new if order.order_id in written}
    # Somebody else has used these keys since they were looked for.
    taken |= await _orders_of_keys(tx, [order for order in new if _key(order) not in taken])
    _write_beginnings(tx, [order for order in new if order.order_id in written])
    # When these are there already, an earlier run of this transaction took effect after all.
    with contextlib.suppress(DuplicateKey):
        await tx.commit()
    return [written.get(order.order_id) or taken[_key(order)] for order in orders]


def _write_beginnings(tx: Transaction, orders: Sequence[NewOrder]) -> None:
    queries.insert_lines(tx, orders)
    queries.insert_events(tx, [(order.order_id, 1, OrderStatus.CREATED, None, None, order.trace) for order in orders])


def _key(order: NewOrder) -> Key:
    """What tells an order from all others, if it has an idempotency key."""
    return order.user_id, order.idempotency_key


async def _orders_of_keys(tx: Transaction, orders: Sequence[NewOrder]) -> dict[Key, OrderRow]:
    """The orders that have the keys of these. They are read without a lock."""
    found = await queries.get_orders_of_keys(tx, {_key(order) for order in orders if order.idempotency_key is not None})
    return dict(zip(found, await queries.with_lines(tx, list(found.values())), strict=True))


async def _get(tx: Transaction, *, order_id: str, owner: str | None) -> OrderRow:
    order = _found(await queries.get_orders(tx, [order_id]), order_id, owner)
    return (await queries.with_lines(tx, [order]))[0]


async def _events(tx: Transaction, *, order_id: str, owner: str | None) -> list[EventRow]:
    if owner is not None:
        _found(await queries.get_orders(tx, [order_id]), order_id, owner)
    events = await queries.get_events(tx, order_id)
    if not events:
        raise _no_order(order_id)
    return events


def _found(orders: Mapping[str, OrderRow], order_id: str, owner: str | None) -> OrderRow:
    """Another user's order is answered like one that does not exist."""
    order = orders.get(order_id)
    if order is None or owner not in (None, order.user_id):
        raise _no_order(order_id)
    return order


def _no_order(order_id: str) -> OrderNotFound:
    return OrderNotFound(f"There is no order {order_id}.")


async def _begin_cancel(
    tx: Transaction, *, order_id: str, asked: str, lease_s: float, owner: str | None
) -> tuple[OrderRow, Move | None]:
    if owner is not None:
        # Before the lock: who waits for that of another's order, or holds it, can tell that there is one.
        _found(await queries.get_orders(tx, [order_id]), order_id, owner)
    order = _found(await queries.lock_orders(tx, [order_id]), order_id, owner)
    [order] = await queries.with_lines(tx, [order])
    move = domain.cancellation(order, asked)
    if move is None:
        return order, None
    return (await _write_moves(tx, [move], lease_s=lease_s))[order_id], move


async def _write_moves(tx: Transaction, moves: Sequence[Move], *, lease_s: float) -> dict[str, OrderRow]:
    groups: dict[tuple[OrderStatus, str | None, int, int], list[Move]] = {}
    for move in moves:
        groups.setdefault((move.to, move.reason, move.version, len(move.path)), []).append(move)
    written_at: dict[str, Answer] = {}
    for (status, reason, version, events), group in groups.items():
        order_ids = [move.key for move in group]
        lease = None if status in FINAL else lease_s
        queries.change_orders(tx, order_ids, status, reason=reason, version=version, events=events, lease_s=lease)
        written_at |= dict.fromkeys(order_ids, queries.get_updated_at(tx, order_ids[0]))
    queries.insert_events(
        tx, [(move.key, *event, move.order.trace or move.trace) for move in moves for event in move.events]
    )
    await tx.commit()
    return {move.key: move.taken(utc(written_at[move.key].value)) for move in moves}
