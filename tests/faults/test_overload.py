"""Three times more orders than the services can take: they go on taking what they can, and refuse the rest at once."""

import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from common.clients import AsyncInventoryClient
from common.server import raise_open_files_limit
from tests.open_loop import Answered, Load
from tests.processes import Services
from vv.databases import Databases

SKU = "OVERLOAD"
UNKNOWN_TIME = {"ORDER_LEASE_S": "12", "PAYMENT_LEASE_S": "20"}


@pytest.fixture(scope="module")
def shop(migrated: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = Services(migrated.service_urls, tmp_path_factory.mktemp("overload"), **UNKNOWN_TIME)
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


def memory_mb(services: Services, key: str = "VmRSS") -> float:
    """Of all three together."""
    texts = [Path(f"/proc/{service.process.pid}/status").read_text() for service in services.all]
    return sum(int(text.partition(f"{key}:")[2].split()[0]) for text in texts) / 1024


def completed_a_second(answers: Sequence[Answered], seconds: float) -> float:
    """Of those that were due in the middle; at both ends a queue fills or empties."""
    ends = sorted(answer.due + answer.seconds for answer in answers if answer.status == 201)
    begin, end = answers[0].due + 1, answers[0].due + seconds
    return sum(begin <= at <= end for at in ends) / (end - begin)


def median_ms(answers: Sequence[Answered]) -> float:
    return 1000 * statistics.median(answer.seconds for answer in answers)


async def test_overload(shop: Services, load: Load) -> None:
    await load.closed(64, 2)
    usual = await load.closed(8, 2)
    peak_answers = await load.closed(256, 4)
    peak = completed_a_second(peak_answers, 4)
    before = memory_mb(shop)
    flood = await load.open(3 * peak, 6)
    goodput = completed_a_second(flood, 6)
    ended = time.perf_counter()
    statuses = Counter(a.status for a in flood)
    refused = [a for a in flood if a.status == 503]
    accepted = [a for a in flood if a.status in (201, 202)]
    print("peak", peak, "usual ms", median_ms(usual), "256: ", median_ms(peak_answers))
    print("flood", statuses, "goodput", goodput, goodput / peak)
    last = max(a.due for a in flood)
    print("drained after", max(a.due + a.seconds for a in flood) - last)
    if refused:
        s = sorted(a.seconds for a in refused)
        print("refused p50 p99 max", s[len(s) // 2], s[int(len(s) * 0.99)], s[-1], all(a.retry_after for a in refused))
    s = sorted(a.seconds for a in accepted)
    print("accepted p50 p99 max", s[len(s) // 2], s[int(len(s) * 0.99)], s[-1])
    print("memory", before, memory_mb(shop), memory_mb(shop, "VmHWM"), time.perf_counter() - ended)
    after = await load.closed(8, 2)
    print("after", median_ms(after))
    raise AssertionError
