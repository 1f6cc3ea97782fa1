"""Orders whose driver went silent, or that were left for later, are driven on the usual way."""

from functools import partial

from common.database import Database
from common.recovery import Claimed, Recovery, longest_lease_s
from common.telemetry import Metrics
from common.transaction import Transaction
from order_service import queries
from order_service.checkout import Checkout
from order_service.domain import OrderRow


def make_recovery(
    database: Database, checkout: Checkout, metrics: Metrics, *, lease_s: float, retry_most_s: float
) -> Recovery[OrderRow]:
    lease_most_s = longest_lease_s(lease_s, retry_most_s)

    async def claim(limit: int) -> Claimed[OrderRow]:
        return await database.transaction(partial(_claim, limit=limit, lease_s=lease_s, lease_most_s=lease_most_s))

    return Recovery("orders", claim, checkout.advance, metrics)


async def _claim(tx: Transaction, *, limit: int, lease_s: float, lease_most_s: float) -> Claimed[OrderRow]:
    order_ids = [order.order_id for order in await queries.lock_expired(tx, limit, lease_most_s)]
    if not order_ids:
        return Claimed([], {})
    queries.mark_claimed(tx, order_ids, lease_s)
    claimed = await queries.get_orders(tx, order_ids)
    return Claimed(await queries.with_lines(tx, list(claimed.values())), await queries.get_traces(tx, order_ids))
