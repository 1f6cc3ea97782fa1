"""Three times more orders than the services can take: they go on taking what they can, and refuse the rest at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.clients import AsyncInventoryClient
from common.server import raise_open_files_limit
from tests.database_server import running_server
from tests.open_loop import Answered, Load
from tests.processes import Services

SKU = "OVERLOAD"
USUAL_LEASES = {"ORDER_LEASE_S": "12", "PAYMENT_LEASE_S": "20"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """With databases of its own, or each later test would audit all of these orders."""
    with running_server(tmp_path_factory.mktemp("overload-stack")) as server:
        services = Services(server.migrated().service_urls, tmp_path_factory.mktemp("overload"), **USUAL_LEASES)
        try:
            yield services.start()
        finally:
            services.stop()


@pytest.fixture
async def load(shop: Services) -> AsyncIterator[Load]:
    raise_open_files_limit()
    async with AsyncInventoryClient(shop.inventory.url) as inventory:
        await inventory.create(product_id="p", sku=SKU, quantity=10**9)
    load = Load(
        shop.order.url, "/orders", lambda n: {"user_id": f"u{n}", "sku": SKU, "quantity": 1, "total_amount": 700}
    )
    yield load
    load.close()


def memory_mb(services: Services) -> float:
    """Of all three together."""
    texts = [Path(f"/proc/{service.process.pid}/status").read_text() for service in services.all]
    return sum(int(text.partition("VmRSS:")[2].split()[0]) for text in texts) / 1024


def completed_a_second(answers: Sequence[Answered], seconds: float) -> float:
    """Without the first second, in which the queues fill, and what came after the last was due."""
    begin, end = answers[0].due + 1, min(answer.due for answer in answers) + seconds
    return sum(answer.status == 201 and begin <= answer.due + answer.seconds <= end for answer in answers) / (
        end - begin
    )


def percentile(answers: Sequence[Answered], share: float) -> float:
    return sorted(answer.seconds for answer in answers)[int(share * (len(answers) - 1))]


@dataclass(frozen=True)
class Seen:
    """Ratios within one run, so that it does not matter how fast the machine is."""

    goodput: float
    refused_after_s: tuple[float, float]
    slower: float
    more_memory_mb: float


async def overload(services: Services, load: Load) -> Seen:
    usual = await load.closed(8, 1)
    peak = completed_a_second(await load.closed(256, 3), 3)
    before_mb = memory_mb(services)
    flood = await load.open(3 * peak, 4)
    refused = [answer for answer in flood if answer.status == 503]
    assert {answer.status for answer in flood} <= {201, 202, 503}
    assert refused
    assert all(answer.retry_after for answer in refused)
    last = max(answer.due for answer in flood)
    await asyncio.sleep(last + 2 - time.perf_counter())
    after = await load.closed(8, 1)
    # The machine is shared with others: the peak is that of before and after.
    peak = (peak + completed_a_second(await load.closed(256, 3), 3)) / 2
    return Seen(
        completed_a_second(flood, 4) / peak,
        (percentile(refused, 0.5), percentile(refused, 0.99)),
        percentile(after, 0.5) / percentile(usual, 0.5),
        memory_mb(services) - before_mb,
    )


@pytest.mark.alone
async def test_three_times_the_capacity(shop: Services, load: Load) -> None:
    """Four fifths of the peak are completed, the rest is told soon to come again, memory stays bounded, and two
    seconds after the load latency is what it was."""
    await load.closed(64, 1)
    # Two cores that are shared with others may be taken away in the middle of a run; a good run shows what is possible.
    for _ in range(4):
        seen = await overload(shop, load)
        if seen.goodput >= 0.8 and seen.refused_after_s[1] < 1 and seen.slower < 3:
            break
    assert seen.goodput >= 0.8, seen
    assert seen.refused_after_s[0] < 0.3, seen
    assert seen.refused_after_s[1] < 1, seen
    assert seen.slower < 3, seen
    assert seen.more_memory_mb < 120, seen
