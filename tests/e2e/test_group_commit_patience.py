"""A gateway, a card or a locked SKU that takes its time holds up nobody else."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.buyers import Buyers, Wish, buyers_at
from tests.conftest import Audit
from tests.e2e.batches import order
from tests.e2e.conftest import Books, Servers, StartServices
from tests.processes import Services


@pytest.fixture
def slow_gateway(start_services: StartServices) -> Services:
    """Half a second a charge."""
    # The usual leases, so that recovery stays out of it.
    return start_services(PAYMENT_SANDBOX_LATENCY_S="0.5", ORDER_LEASE_S="12", PAYMENT_LEASE_S="20")


@pytest.mark.alone
async def test_a_slow_gateway_holds_up_nobody(
    slow_gateway: Services, servers: Servers, books: Books, audit_books: Audit
) -> None:
    """A thousand buyers at once, half a second a charge: the charges go on side by side, without a thread each."""
    sku = servers.new_sku(1_000)
    async with buyers_at(slow_gateway.order.url) as buyers:
        started = time.perf_counter()
        sending = asyncio.gather(*buyers.start([Wish(order(sku)) for _ in range(1_000)]))
        threads = 0
        while not sending.done():
            threads = max(threads, threads_of(slow_gateway.payment.process.pid))
            await asyncio.sleep(0.05)
        seconds = time.perf_counter() - started

    assert Counter(one.status for one in sending.result()) == {201: 1_000}
    # One after the other they would take 500 seconds, and 8 seconds if one batch of 64 waited for the other.
    assert seconds < 8
    assert threads <= 4
    assert servers.inventory.get("/inventory/sku", sku=sku).json()["quantity"] == 0
    assert (await audit_books()).violations == []


@pytest.mark.alone
async def test_slow_cards_hold_up_no_other_order(servers: Servers, buyers: Buyers) -> None:
    """Every second card takes a second longer; the orders with the other cards are done long before."""
    sku = servers.new_sku(1_000)
    cards = ["tok_slow", "tok_ok"]
    wishes = [Wish(order(sku, payment_method=cards[n % 2])) for n in range(128)]
    got = await buyers.send_all(wishes)
    slow, fast = got[::2], got[1::2]
    assert {one.status for one in fast} == {201}
    assert {one.status for one in slow} <= {201, 202}
    assert max(one.seconds for one in fast) < 1 <= min(one.seconds for one in slow)


@pytest.mark.alone
async def test_a_locked_sku_holds_up_nobody_else(
    services: Services, servers: Servers, buyers: Buyers, books: Books, audit_books: Audit
) -> None:
    """Somebody edits a SKU and does not commit: orders of other SKUs complete as ever, those of this one afterwards."""
    locked, free = servers.new_sku(100), servers.new_sku(100)
    with books.row_locked("inventory", "SELECT * FROM inventory WHERE sku = %s FOR UPDATE", locked):
        kept_back = buyers.start([Wish(order(locked)) for _ in range(16)])
        others = []
        for _ in range(6):
            others += await buyers.send_all([Wish(order(free)) for _ in range(8)])
            await asyncio.sleep(0.2)
        assert not any(task.done() for task in kept_back)
    late = await asyncio.gather(*kept_back)

    assert {one.status for one in others} == {201}
    assert sorted(one.seconds for one in others)[len(others) // 2] < 0.5
    assert max(one.seconds for one in others) < 1.5
    assert {one.status for one in late} <= {201, 202}
    await asyncio.to_thread(books.settle)
    assert servers.inventory.get(f"/inventory/sku?sku={locked}").json()["quantity"] == 84
    assert (await audit_books()).violations == []


def threads_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("Threads:")).split()[1])
