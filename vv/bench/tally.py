"""What the database says about the orders of a run."""

import asyncio
import time
from dataclasses import dataclass

from common.database import Database
from common.telemetry import Metrics
from common.transaction import Transaction

_POLL_INTERVAL_S = 0.1


@dataclass(frozen=True)
class Tally:
    """How many orders there are, how many are completed, and how many recovery had to take up.

    :param seconds: from when the first of them was created to when the last one was completed
    """

    orders: int
    completed: int
    taken_up: int
    seconds: float


async def settled_tally(url: str, run: str, first_id: str, timeout_s: float) -> Tally:
    """The tally of orders whose idempotency key begins with ``run``, once none is unfinished and no more arrive.

    :param url: the order service's database
    :param first_id: an id below those of all orders of the run, so that older ones need not be read

    After ``timeout_s`` it is what it is. Raises DatabaseUnavailable.
    """
    deadline = time.monotonic() + timeout_s
    async with Database(
        url, Metrics("bench"), pool_size_max=1, pool_wait_s=30, lock_wait_s=5, transaction_timeout_s=60
    ) as database:

        async def read(tx: Transaction) -> tuple[int, Tally]:
            unfinished = await tx.fetch_one("SELECT COUNT(*) FROM orders WHERE lease_until IS NOT NULL")
            counts = await tx.fetch_one(
                "SELECT COUNT(*), COALESCE(SUM(status = 'completed'), 0), COALESCE(SUM(attempts > 0), 0), "
                "COALESCE(TIMESTAMPDIFF(MICROSECOND, MIN(created_at), MAX(updated_at)), 0) "
                "FROM orders WHERE order_id > %s AND idempotency_key LIKE %s",
                (first_id, f"{run}-%"),
            )
            assert unfinished is not None
            assert counts is not None
            orders, completed, taken_up, microseconds = map(int, counts)
            return int(unfinished[0]), Tally(orders, completed, taken_up, microseconds / 1e6)

        before = None
        while True:
            unfinished, tally = await database.read(read)
            if (unfinished == 0 and tally == before) or time.monotonic() > deadline:
                return tally
            before = tally
            await asyncio.sleep(_POLL_INTERVAL_S)
