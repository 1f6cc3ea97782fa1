"""Every SQL statement of the payment service. ``lock_*`` holds its rows until the transaction ends.

What is not awaited is sent with the next statement that is.
"""

from collections.abc import Collection, Mapping, Sequence

from common.backlog import BacklogCount
from common.contracts.payments import PaymentStatus
from common.transaction import Answer, Row, Transaction, microseconds, utc
from payment_service.domain import NewPayment, PaymentRow, Refund

_COLUMNS = (
    "order_id, payment_id, amount, currency, payment_method, status, refunded_amount, reason, "
    "version, last_seq, attempts, looks, user_id, created_at, updated_at"
)


def _payment(row: Row) -> PaymentRow:
    values = list(row)
    values[5] = PaymentStatus(values[5])
    values[-2:] = map(utc, values[-2:])
    return PaymentRow(*values)


def insert_payments(tx: Transaction, items: Sequence[NewPayment], lease_s: float, *, or_leave: bool = False) -> Answer:
    """Write pending payments. For an order that has one it is left out with ``or_leave``; else DuplicateKey is raised
    when it is sent."""
    return tx.defer_values(
        "INSERT INTO payments (order_id, payment_id, user_id, amount, currency, payment_method, status, lease_until) "
        "VALUES %s" + " ON DUPLICATE KEY UPDATE version = version" * or_leave,
        [
            (
                item.order_id,
                item.payment_id,
                item.wanted.user_id,
                item.wanted.amount,
                item.wanted.currency,
                item.wanted.payment_method,
                PaymentStatus.PENDING,
                microseconds(lease_s),
            )
            for item in items
        ],
        "(%s, %s, %s, %s, %s, %s, %s, NOW(6) + INTERVAL %s MICROSECOND)",
    )


async def insert_void(tx: Transaction, order_id: str, payment_id: str) -> int:
    """Write a voided payment for an order that has none, so that a late charge finds it. It is nobody's."""
    return await tx.execute(
        "INSERT INTO payments (order_id, payment_id, amount, currency, payment_method, status) "
        "VALUES (%s, %s, 0, 'XXX', '-', %s) ON DUPLICATE KEY UPDATE version = version",
        (order_id, payment_id, PaymentStatus.VOIDED),
    )


async def get_payments(tx: Transaction, order_ids: Collection[str]) -> dict[str, PaymentRow]:
    rows = await tx.fetch_all(f"SELECT {_COLUMNS} FROM payments WHERE order_id IN %s", (list(order_ids),))
    return {payment.order_id: payment for payment in map(_payment, rows)}


async def get_left(tx: Transaction, order_ids: Collection[str], lease_s: float) -> dict[str, PaymentRow]:
    """The payments whose first driver is done: moved on, postponed, or its lease has expired.

    While it works, the lease is still the one with which the payment was inserted.
    """
    rows = await tx.fetch_all(
        f"SELECT {_COLUMNS} FROM payments WHERE order_id IN %s AND NOT (status = %s AND attempts = 0 "
        "AND lease_until = created_at + INTERVAL %s MICROSECOND AND lease_until > NOW(6))",
        (list(order_ids), PaymentStatus.PENDING, microseconds(lease_s)),
    )
    return {payment.order_id: payment for payment in map(_payment, rows)}


async def lock_payments(tx: Transaction, order_ids: Collection[str]) -> dict[str, PaymentRow]:
    rows = await tx.fetch_all(
        f"SELECT {_COLUMNS} FROM payments WHERE order_id IN %s ORDER BY order_id FOR UPDATE", (sorted(order_ids),)
    )
    return {payment.order_id: payment for payment in map(_payment, rows)}


def get_updated_at(tx: Transaction, order_id: str) -> Answer:
    """When the payment was written last, as the value of the answer."""
    return tx.defer("SELECT updated_at FROM payments WHERE order_id = %s", (order_id,))


async def lock_free_payments(tx: Transaction, order_ids: Collection[str]) -> dict[str, PaymentRow]:
    """The payments that nobody else holds, by their order."""
    rows = await tx.fetch_all(
        f"SELECT {_COLUMNS} FROM payments WHERE order_id IN %s ORDER BY order_id FOR UPDATE SKIP LOCKED",
        (sorted(order_ids),),
    )
    return {payment.order_id: payment for payment in map(_payment, rows)}


def change_payments(
    tx: Transaction,
    order_ids: Collection[str],
    status: PaymentStatus,
    *,
    reason: str | None,
    version: int,
    refund: int,
    lease_s: float | None,
) -> Answer:
    """Move payments to ``status``; without a lease nothing is outstanding any more.

    Raises StaleVersion, when it is sent, unless all of them have ``version``.
    """
    return tx.defer(
        "UPDATE payments SET version = IF(version = %s, version + 1, NULL), status = %s, reason = %s, "
        "refunded_amount = refunded_amount + %s, last_seq = last_seq + 1, attempts = 0, looks = 0, "
        "lease_until = NOW(6) + INTERVAL %s MICROSECOND, updated_at = NOW(6) WHERE order_id IN %s",
        (version, status, reason, refund, None if lease_s is None else microseconds(lease_s), list(order_ids)),
    )


def insert_events(
    tx: Transaction, events: Sequence[tuple[str, int, PaymentStatus, int, str | None, str | None]]
) -> Answer:
    """Rows of (order_id, seq, status, amount, reason, trace_context). Raises DuplicateKey when it is sent."""
    return tx.defer_values(
        "INSERT INTO payment_events (order_id, seq, status, amount, reason, trace_context) VALUES %s",
        events,
        "(%s, %s, %s, %s, %s, %s)",
    )


async def insert_refunds(tx: Transaction, refunds: Mapping[str, tuple[str | None, int]]) -> None:
    """A refund of (request_id, amount) for each order, numbered within it. The payments must be locked.

    Raises DuplicateKey, when it is sent, for a used request_id.
    """
    if not refunds:
        return
    found = await tx.fetch_all(
        "SELECT order_id, MAX(n) FROM refunds WHERE order_id IN %s GROUP BY order_id", (list(refunds),)
    )
    last: dict[str, int] = dict(found)
    tx.defer_values(
        "INSERT INTO refunds (order_id, n, request_id, amount) VALUES %s",
        [(order_id, last.get(order_id, 0) + 1, *refund) for order_id, refund in refunds.items()],
        "(%s, %s, %s, %s)",
    )


async def get_refund_of_request(tx: Transaction, order_id: str, request_id: str) -> Refund | None:
    row = await tx.fetch_one(
        "SELECT n, amount FROM refunds WHERE order_id = %s AND request_id = %s", (order_id, request_id)
    )
    return Refund(*row) if row else None


async def get_open_refunds(tx: Transaction, order_id: str) -> list[Refund]:
    rows = await tx.fetch_all("SELECT n, amount FROM refunds WHERE order_id = %s AND NOT done ORDER BY n", (order_id,))
    return [Refund(*row) for row in rows]


async def mark_refund_done(tx: Transaction, order_id: str, n: int) -> int:
    return await tx.execute("UPDATE refunds SET done = TRUE WHERE order_id = %s AND n = %s", (order_id, n))


async def lock_expired(tx: Transaction, limit: int, lease_most_s: float) -> list[PaymentRow]:
    """Payments whose lease has run out and that nobody else is taking up at this moment.

    A lease that would last longer than ``lease_most_s`` is from before the database's clock was set back.
    """
    rows = await tx.fetch_all(
        f"SELECT {_COLUMNS} FROM payments WHERE lease_until <= NOW(6) "
        "OR lease_until > NOW(6) + INTERVAL %s MICROSECOND ORDER BY lease_until LIMIT %s FOR UPDATE SKIP LOCKED",
        (microseconds(lease_most_s), limit),
    )
    return [_payment(row) for row in rows]


def mark_claimed(tx: Transaction, order_ids: Collection[str], lease_s: float) -> Answer:
    """Take payments away from whoever drove them: their version is raised."""
    return tx.defer(
        "UPDATE payments SET version = version + 1, attempts = LEAST(attempts + 1, 1000), "
        "lease_until = NOW(6) + INTERVAL %s MICROSECOND WHERE order_id IN %s",
        (microseconds(lease_s), list(order_ids)),
    )


async def mark_postponed(tx: Transaction, payment: PaymentRow, delay_s: float, times_not_found: int) -> int:
    """Leave the payment to recovery, after a while."""
    return await tx.execute(
        "UPDATE payments SET looks = LEAST(%s, 1000), lease_until = NOW(6) + INTERVAL %s MICROSECOND "
        "WHERE order_id = %s AND version = %s",
        (times_not_found, microseconds(delay_s), payment.order_id, payment.version),
    )


async def get_traces(tx: Transaction, order_ids: Collection[str]) -> dict[str, str]:
    """The trace context in which each payment began, where there was one."""
    rows = await tx.fetch_all(
        "SELECT order_id, trace_context FROM payment_events "
        "WHERE order_id IN %s AND seq = 1 AND trace_context IS NOT NULL",
        (list(order_ids),),
    )
    return dict(rows)


async def count_unfinished(tx: Transaction) -> dict[str, BacklogCount]:
    """How many payments are outstanding, by status, and how long the oldest of each has stood still."""
    rows = await tx.fetch_all(
        "SELECT status, COUNT(*), TIMESTAMPDIFF(MICROSECOND, MIN(updated_at), NOW(6)) FROM payments "
        "WHERE lease_until IS NOT NULL GROUP BY status"
    )
    return {status: BacklogCount(count, age / 1_000_000) for status, count, age in rows}
