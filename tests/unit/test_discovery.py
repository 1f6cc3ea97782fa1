"""When DNS is asked, and what its answers do."""

import asyncio

import pytest

from common.clients.discovery import Discovery
from common.clients.instances import Endpoint, Lease, Outcome, Record
from common.clients.resolver import Answer, LookupFailed
from common.clients.transport import was_sent
from common.errors import ServiceUnavailable

A, B = (Record(Endpoint(name, 80, ("10.0.0.1",))) for name in "ab")


class Dns:
    """Answers with what it is told to, and keeps the clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answer: Answer | None = Answer((A,), 5)
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0

    async def look_up(self, name: str) -> Answer:
        assert name == "_x._tcp.test"
        self.asked += 1
        await self.answers.wait()
        if self.answer is None:
            raise LookupFailed("nobody is there")
        return self.answer


@pytest.fixture
async def dns() -> Dns:
    return Dns()


@pytest.fixture
async def discovery(dns: Dns) -> Discovery:
    return Discovery("_x._tcp.test", dns, clock=lambda: dns.now)


async def picked(discovery: Discovery, outcome: Outcome = Outcome.ANSWERED) -> str:
    lease = await discovery.pick(wait_s=0.05)
    assert lease is not None
    discovery.give_back(lease, outcome)
    # A lookup that was begun along with it ends.
    for _ in range(3):
        await asyncio.sleep(0)
    return lease.endpoint.host


async def test_everybody_waits_for_the_first_answer(dns: Dns, discovery: Discovery) -> None:
    """Calls that come before it share one lookup."""
    dns.answers.clear()
    calls = [asyncio.create_task(discovery.pick()) for _ in range(20)]
    await asyncio.sleep(0)
    dns.answers.set()
    leases = await asyncio.gather(*calls)
    assert all(isinstance(lease, Lease) for lease in leases)
    assert dns.asked == 1


@pytest.mark.parametrize(("ttl_s", "good_for_s"), [(5, 5), (0, 1), (86_400, 30)])
async def test_an_answer_is_good_for_its_ttl(dns: Dns, discovery: Discovery, ttl_s: float, good_for_s: float) -> None:
    """Within bounds: DNS is asked once a second at the most, and not less than twice a minute."""
    dns.answer = Answer((A,), ttl_s)
    await picked(discovery)
    dns.now += good_for_s - 0.01
    await picked(discovery)
    assert dns.asked == 1
    dns.now += 0.02
    await picked(discovery)
    assert dns.asked == 2


async def test_under_load_nobody_waits_for_dns(dns: Dns, discovery: Discovery) -> None:
    """Shortly after its time the old answer is used while the new one is on its way; then the new one counts."""
    await picked(discovery)
    dns.now += 5.5
    dns.answer = Answer((B,), 5)
    assert [await picked(discovery), await picked(discovery)] == ["a", "b"]


async def test_a_client_that_was_idle_asks_first(dns: Dns, discovery: Discovery) -> None:
    """An answer from long ago names instances whose addresses may be others' by now."""
    await picked(discovery)
    dns.now += 3600
    dns.answer = Answer((B,), 5)
    assert await picked(discovery) == "b"


async def test_while_dns_is_down_its_last_answer_counts(dns: Dns, discovery: Discovery) -> None:
    """Nobody waits, and DNS is asked again each second until it is back."""
    await picked(discovery)
    dns.answer = None
    for _ in range(100):
        dns.now += 0.5
        assert await picked(discovery) == "a"
    assert 40 < dns.asked < 60
    dns.answer = Answer((B,), 5)
    dns.now += 1
    assert [await picked(discovery), await picked(discovery)] == ["a", "b"]


async def test_nobody_waits_for_a_dns_that_is_down(dns: Dns, discovery: Discovery) -> None:
    """Who knows that the last lookup failed does not wait for the next one."""
    await picked(discovery)
    dns.answer = None
    dns.now += 60
    await picked(discovery)
    dns.answers.clear()
    dns.now += 60
    async with asyncio.timeout(0.5):
        assert await discovery.pick(wait_s=30) is not None
    await discovery.close()


async def test_a_silent_dns_delays_nobody_for_long(dns: Dns, discovery: Discovery) -> None:
    """Whoever has to wait for an answer that does not come goes by the last one."""
    await picked(discovery)
    dns.answers.clear()
    dns.now += 60
    assert await picked(discovery) == "a"
    await discovery.close()


async def test_without_any_answer_there_is_nobody_to_call(dns: Dns, discovery: Discovery) -> None:
    """The error says why; it is no word on an outcome, as nothing was sent."""
    dns.answer = None
    with pytest.raises(ServiceUnavailable, match=r"_x\._tcp\.test .*nobody is there") as caught:
        await discovery.pick()
    assert not was_sent(caught.value)
    dns.answer = Answer((A,), 5)
    dns.now += 1
    assert await picked(discovery) == "a"


async def test_an_empty_answer_is_an_answer(dns: Dns, discovery: Discovery) -> None:
    """When DNS says that there is no instance, none is used, and it is asked again soon."""
    await picked(discovery)
    dns.now += 5
    dns.answer = Answer((), 0)
    await picked(discovery)
    with pytest.raises(ServiceUnavailable, match="DNS names no instance"):
        await discovery.pick()
    dns.now += 2
    dns.answer = Answer((A,), 5)
    assert await picked(discovery) == "a"


async def test_a_refused_connection_makes_us_ask_at_once(dns: Dns, discovery: Discovery) -> None:
    """DNS may know already that the instance is gone; still it is not asked more than once a second."""
    dns.answer = Answer((A, B), 30)
    await picked(discovery, Outcome.REFUSED)
    await picked(discovery)
    assert dns.asked == 1
    dns.now += 1.01
    await picked(discovery)
    assert dns.asked == 2
    dns.now += 1.01
    await picked(discovery)
    assert dns.asked == 2


async def test_the_addresses_of_a_host(dns: Dns, discovery: Discovery) -> None:
    """Those that came with the record, for this port."""
    await picked(discovery)
    assert discovery.addresses("a", 80) == ("10.0.0.1",)
    assert discovery.addresses("a", 81) == ()
    assert discovery.addresses("b", 80) == ()
