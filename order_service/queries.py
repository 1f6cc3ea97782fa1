"""Every SQL statement of the order service. ``lock_*`` holds its rows until the transaction ends.

What is not awaited is sent with the next statement that is.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeAlias

from common.backlog import BacklogCount
from common.contracts.orders import OrderStatus
from common.transaction import Answer, Row, Transaction, microseconds, utc
from order_service.domain import EventRow, NewOrder, OrderRow

# The user of an order and its idempotency key, if it has one.
Key: TypeAlias = tuple[str, str | None]

_COLUMNS = (
    "order_id, user_id, status, total_amount, currency, payment_method, reason, fingerprint, "
    "version, last_seq, attempts, created_at, updated_at"
)


def _order(row: Row) -> OrderRow:
    values = list(row)
    values[2] = OrderStatus(values[2])
    values[-2:] = map(utc, values[-2:])
    return OrderRow(*values)


def insert_orders(tx: Transaction, orders: Sequence[NewOrder], lease_s: float, *, or_leave: bool = False) -> Answer:
    """Write orders. One whose key is taken is left out with ``or_leave``, else raises DuplicateKey when it is sent."""
    return tx.defer_values(
        "INSERT INTO orders (order_id, user_id, status, total_amount, currency, payment_method, idempotency_key, "
        "fingerprint, lease_until) VALUES %s" + " ON DUPLICATE KEY UPDATE version = version" * or_leave,
        [
            (
                order.order_id,
                order.user_id,
                OrderStatus.CREATED,
                order.wanted.total_amount,
                order.wanted.currency,
                order.wanted.payment_method,
                order.idempotency_key,
                order.fingerprint,
                microseconds(lease_s),
            )
            for order in orders
        ],
        "(%s, %s, %s, %s, %s, %s, %s, %s, NOW(6) + INTERVAL %s MICROSECOND)",
    )


def insert_lines(tx: Transaction, orders: Sequence[NewOrder]) -> Answer:
    """Raises DuplicateKey when it is sent."""
    return tx.defer_values(
        "INSERT INTO order_lines (order_id, sku, quantity) VALUES %s",
        [(order.order_id, sku, quantity) for order in orders for sku, quantity in order.lines.items()],
        "(%s, %s, %s)",
    )


def insert_events(
    tx: Transaction, events: Sequence[tuple[str, int, OrderStatus, str | None, str | None, str | None]]
) -> Answer:
    """Rows of (order_id, seq, status, reason, problem, trace_context). Raises DuplicateKey when it is sent."""
    return tx.defer_values(
        "INSERT INTO order_events (order_id, seq, status, reason, problem, trace_context) VALUES %s",
        events,
        "(%s, %s, %s, %s, %s, %s)",
    )


async def get_orders(tx: Transaction, order_ids: Collection[str]) -> dict[str, OrderRow]:
    """The orders that exist, without their lines."""
    rows = await tx.fetch_all(f"SELECT {_COLUMNS} FROM orders WHERE order_id IN %s", (list(order_ids),))
    return {order.order_id: order for order in map(_order, rows)}


async def get_orders_of_keys(tx: Transaction, keys: Collection[Key]) -> dict[Key, OrderRow]:
    """The orders that exist, by user and idempotency key, without their lines."""
    sql = f"SELECT {_COLUMNS} FROM orders WHERE user_id = %s AND idempotency_key = %s"
    answers = {key: tx.defer(sql, key) for key in keys}
    if answers:
        await tx.flush()
    return {key: _order(row) for key, answer in answers.items() for row in answer.rows}


async def lock_orders(tx: Transaction, order_ids: Collection[str]) -> dict[str, OrderRow]:
    """The orders that exist, without their lines."""
    rows = await tx.fetch_all(
        f"SELECT {_COLUMNS} FROM orders WHERE order_id IN %s ORDER BY order_id FOR UPDATE", (sorted(order_ids),)
    )
    return {order.order_id: order for order in map(_order, rows)}


def get_updated_at(tx: Transaction, order_id: str) -> Answer:
    """When the order was written last, as the value of the answer."""
    return tx.defer("SELECT updated_at FROM orders WHERE order_id = %s", (order_id,))


async def lock_free_orders(tx: Transaction, order_ids: Collection[str]) -> dict[str, OrderRow]:
    """The orders that nobody else holds, without their lines."""
    rows = await tx.fetch_all(
        f"SELECT {_COLUMNS} FROM orders WHERE order_id IN %s ORDER BY order_id FOR UPDATE SKIP LOCKED",
        (sorted(order_ids),),
    )
    return {order.order_id: order for order in map(_order, rows)}


async def list_orders(
    tx: Transaction, *, user_id: str | None, status: OrderStatus | None, before: str | None, limit: int
) -> list[OrderRow]:
    """Newest first, without their lines."""
    wanted = {"user_id = %s": user_id, "status = %s": status, "order_id < %s": before}
    conditions = {condition: value for condition, value in wanted.items() if value is not None}
    where = "WHERE " + " AND ".join(conditions) if conditions else ""
    rows = await tx.fetch_all(
        f"SELECT {_COLUMNS} FROM orders {where} ORDER BY order_id DESC LIMIT %s", [*conditions.values(), limit]
    )
    return [_order(row) for row in rows]


async def with_lines(tx: Transaction, orders: Sequence[OrderRow]) -> list[OrderRow]:
    """The same orders with their lines."""
    if not orders:
        return []
    lines: dict[str, dict[str, int]] = {order.order_id: {} for order in orders}
    for order_id, sku, quantity in await tx.fetch_all(
        "SELECT order_id, sku, quantity FROM order_lines WHERE order_id IN %s ORDER BY order_id, sku", (list(lines),)
    ):
        lines[order_id][sku] = quantity
    return [replace(order, lines=lines[order.order_id]) for order in orders]


async def get_events(tx: Transaction, order_id: str) -> list[EventRow]:
    rows = await tx.fetch_all(
        "SELECT seq, status, reason, problem, created_at FROM order_events WHERE order_id = %s ORDER BY seq",
        (order_id,),
    )
    return [
        EventRow(seq, OrderStatus(status), reason, problem, utc(created_at))
        for seq, status, reason, problem, created_at in rows
    ]


def change_orders(
    tx: Transaction,
    order_ids: Collection[str],
    status: OrderStatus,
    *,
    reason: str | None,
    version: int,
    events: int,
    lease_s: float | None,
) -> Answer:
    """Move orders to ``status``, over ``events`` transitions; without a lease they are final.

    Raises StaleVersion, when it is sent, unless all of them have ``version``.
    """
    return tx.defer(
        "UPDATE orders SET version = IF(version = %s, version + 1, NULL), status = %s, reason = %s, "
        "last_seq = last_seq + %s, lease_until = NOW(6) + INTERVAL %s MICROSECOND, updated_at = NOW(6) "
        "WHERE order_id IN %s",
        (version, status, reason, events, None if lease_s is None else microseconds(lease_s), list(order_ids)),
    )


async def lock_expired(tx: Transaction, limit: int, lease_most_s: float) -> list[OrderRow]:
    """Orders whose lease has run out and that nobody else is taking up at this moment.

    A lease that would last longer than ``lease_most_s`` is from before the database's clock was set back.
    """
    rows = await tx.fetch_all(
        f"SELECT {_COLUMNS} FROM orders WHERE lease_until <= NOW(6) "
        "OR lease_until > NOW(6) + INTERVAL %s MICROSECOND ORDER BY lease_until LIMIT %s FOR UPDATE SKIP LOCKED",
        (microseconds(lease_most_s), limit),
    )
    return [_order(row) for row in rows]


def mark_claimed(tx: Transaction, order_ids: Collection[str], lease_s: float) -> Answer:
    """Take orders away from whoever drove them: their version is raised."""
    return tx.defer(
        "UPDATE orders SET version = version + 1, attempts = LEAST(attempts + 1, 1000), "
        "lease_until = NOW(6) + INTERVAL %s MICROSECOND WHERE order_id IN %s",
        (microseconds(lease_s), list(order_ids)),
    )


async def mark_postponed(tx: Transaction, order: OrderRow, delay_s: float) -> int:
    """Leave the order to recovery, after a while."""
    return await tx.execute(
        "UPDATE orders SET attempts = GREATEST(attempts, 1), lease_until = NOW(6) + INTERVAL %s MICROSECOND "
        "WHERE order_id = %s AND version = %s",
        (microseconds(delay_s), order.order_id, order.version),
    )


async def get_traces(tx: Transaction, order_ids: Collection[str]) -> dict[str, str]:
    """The trace context in which each order began, where there was one."""
    rows = await tx.fetch_all(
        "SELECT order_id, trace_context FROM order_events "
        "WHERE order_id IN %s AND seq = 1 AND trace_context IS NOT NULL",
        (list(order_ids),),
    )
    return dict(rows)


async def count_unfinished(tx: Transaction) -> dict[str, BacklogCount]:
    """How many orders are not final yet, by status, and how long the oldest of each has stood still."""
    rows = await tx.fetch_all(
        "SELECT status, COUNT(*), TIMESTAMPDIFF(MICROSECOND, MIN(updated_at), NOW(6)) FROM orders "
        "WHERE lease_until IS NOT NULL GROUP BY status"
    )
    return {status: BacklogCount(count, age / 1_000_000) for status, count, age in rows}
