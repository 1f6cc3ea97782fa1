"""Payments whose driver went silent, or that were left for later, are driven on the usual way."""

from functools import partial

from common.database import Database
from common.recovery import Claimed, Recovery, longest_lease_s
from common.telemetry import Metrics
from common.transaction import Transaction
from payment_service import queries
from payment_service.charges import Charges
from payment_service.domain import PaymentRow


def make_recovery(
    database: Database, charges: Charges, metrics: Metrics, *, lease_s: float, retry_most_s: float
) -> Recovery[PaymentRow]:
    lease_most_s = longest_lease_s(lease_s, retry_most_s)

    async def claim(limit: int) -> Claimed[PaymentRow]:
        return await database.transaction(partial(_claim, limit=limit, lease_s=lease_s, lease_most_s=lease_most_s))

    return Recovery("payments", claim, charges.advance, metrics)


async def _claim(tx: Transaction, *, limit: int, lease_s: float, lease_most_s: float) -> Claimed[PaymentRow]:
    order_ids = [payment.order_id for payment in await queries.lock_expired(tx, limit, lease_most_s)]
    if not order_ids:
        return Claimed([], {})
    queries.mark_claimed(tx, order_ids, lease_s)
    claimed = await queries.get_payments(tx, order_ids)
    return Claimed(list(claimed.values()), await queries.get_traces(tx, order_ids))
