"""After the faults: how long it takes until everything has ended, and whether the stack is itself again."""

import asyncio
import random
import time
from collections.abc import Mapping

import aiohttp

from tests.faults.harness.buyers import Counters
from tests.faults.harness.evidence import Row, rows
from tests.faults.harness.history import Kind
from tests.faults.harness.violation import Violation

# Seconds after the last fault within which everything that was accepted must have ended.
ENDS_WITHIN_S = 30.0
_QUIET_WITHIN_S = 5.0
# Also on a busy machine, where those are still being served who have gone home.
_ANSWERS_WITHIN_S = 15.0
_METRICS_WITHIN = aiohttp.ClientTimeout(total=3)
_GUESTS = 48
_UNFINISHED = {
    "order": "SELECT * FROM orders WHERE lease_until IS NOT NULL OR status NOT IN ('completed', 'failed', 'cancelled')",
    "payment": "SELECT * FROM payments WHERE lease_until IS NOT NULL "
    "OR status NOT IN ('captured', 'declined', 'refunded', 'voided')",
}
# Gauges that are zero when nobody is being served.
_BUSY = ("vv_batches_in_flight", "vv_db_pool_connections_in_use")
_OPEN_TRANSACTIONS = "SELECT * FROM information_schema.innodb_trx WHERE trx_mysql_thread_id <> CONNECTION_ID()"


async def everything_ends(urls: Mapping[str, str], since: float) -> tuple[float, list[Violation]]:
    """Wait until no order and no payment is unfinished; the seconds after ``since``, and what was stuck by then."""
    while (left := await asyncio.to_thread(_unfinished, urls)) and time.time() - since < ENDS_WITHIN_S:
        await asyncio.sleep(0.1)
    stuck = [
        Violation(
            "everything_ends", row["order_id"], f"is {row['status']} after {ENDS_WITHIN_S:.0f} s", f"{table} {row}"
        )
        for table, row in left
    ]
    return time.time() - since, stuck


def _unfinished(urls: Mapping[str, str]) -> list[tuple[str, Row]]:
    return [(f"{service}s", row) for service, sql in _UNFINISHED.items() for row in rows(urls[service], sql)]


async def everybody_is_served(counters: Counters, sku: str, chance: random.Random) -> list[Violation]:
    """With the faults gone, many buyers who come at once all get what they want, in time."""

    async def guest(n: int) -> Violation | None:
        body = {"user_id": f"{sku}-{n}", "sku": sku, "total_amount": chance.randint(100, 999), "currency": "USD"}
        body |= {"payment_method": "tok_ok", "quantity": 1}
        began = time.monotonic()
        told = await counters.send(
            Kind.ORDER, f"{sku}-{n}", "POST", "/orders", body, key=f"{sku}-{n}-key", timeout_s=_ANSWERS_WITHIN_S
        )
        took_s = time.monotonic() - began
        if told.status == 201:
            return None
        return Violation("everybody_is_served", sku, f"was answered {told.status} after {took_s:.1f} s", str(told))

    found = await asyncio.gather(*(guest(n) for n in range(_GUESTS)))
    return [violation for violation in found if violation is not None]


async def nothing_is_held(services: Mapping[str, str], database_url: str) -> list[Violation]:
    """With nobody being served, no batch is on its way, no connection is taken from a pool, no transaction open.

    ``database_url`` is that of an account that may see the transactions of all.
    """
    deadline = time.monotonic() + _QUIET_WITHIN_S
    while True:
        busy = {name: found for name, url in services.items() if (found := await _busy(url))}
        if open_ := await asyncio.to_thread(rows, database_url, _OPEN_TRANSACTIONS):
            busy["database"] = list(map(str, open_))
        if not busy:
            return []
        if time.monotonic() > deadline:
            return [
                Violation("nothing_is_held", name, "is busy with nothing", str(found)) for name, found in busy.items()
            ]
        # The server renews its table of transactions only when nobody has looked for 0.1 seconds.
        await asyncio.sleep(0.15)


async def _busy(url: str) -> list[str]:
    """The samples of the gauges that are not zero."""
    try:
        async with aiohttp.ClientSession(url) as session, session.get("/metrics", timeout=_METRICS_WITHIN) as reply:
            samples = (await reply.text()).splitlines()
    except (aiohttp.ClientError, TimeoutError) as error:
        return [f"/metrics: {error!r}"]
    return [sample for sample in samples if sample.startswith(_BUSY) and float(sample.rsplit(" ", 1)[1]) > 0]
