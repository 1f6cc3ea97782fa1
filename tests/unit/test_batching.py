"""Group commit: who shares a batch, and what one item's fate means for the others."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import SecretStr

from common import context
from common.batching import Batcher, StillRunning
from common.contracts.inventory import OutOfStock
from common.errors import DatabaseUnavailable, InternalError, Overloaded
from common.settings import ServiceSettings
from common.telemetry import Metrics


class Journal:
    """Runs batches of numbers: notes each, waits for ``gate``, fails for those in ``poison``."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.poison: dict[int, Exception] = {}

    async def run(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        await self.gate.wait()
        for item in items:
            if item in self.poison:
                raise self.poison[item]
        return [item * 10 if item % 7 else OutOfStock(str(item)) for item in items]


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def make(journal: Journal) -> Callable[..., Batcher[int, int]]:
    def make(**settings: Any) -> Batcher[int, int]:
        url = SecretStr("mysql://u:p@h/d")
        defaults = {"max_batch": 4, "batches_in_flight_max": 1, "batch_gather_s": 0.01}
        read = ServiceSettings(database_url=url, port=1, **{**defaults, **settings})
        return Batcher("test", journal.run, read, Metrics("test"))

    return make


async def submit(batcher: Batcher[int, int], *items: int) -> list[Any]:
    return await asyncio.gather(*(batcher.submit(item) for item in items), return_exceptions=True)


async def test_one_item_alone_goes_at_once(make: Callable[..., Batcher[int, int]], journal: Journal) -> None:
    """With nothing in flight nothing waits, however long items may gather."""
    async with asyncio.timeout(0.5):
        assert await make(batch_gather_s=60).submit(1) == 10
    assert journal.batches == [[1]]


async def test_what_arrives_meanwhile_shares_the_next_batch(
    make: Callable[..., Batcher[int, int]], journal: Journal
) -> None:
    """While a batch is in flight items gather; they go together, in arrival order, no more than fit."""
    batcher = make()
    journal.gate.clear()
    first = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0.01)
    others = asyncio.create_task(submit(batcher, 2, 3, 4, 5, 6))
    await asyncio.sleep(0.03)
    assert journal.batches == [[1]]

    journal.gate.set()

    assert [await first, *await others] == [10, 20, 30, 40, 50, 60]
    assert journal.batches == [[1], [2, 3, 4, 5], [6]]


async def test_a_second_batch_starts_when_it_is_full_or_has_gathered(
    make: Callable[..., Batcher[int, int]], journal: Journal
) -> None:
    """With several batches allowed a full one goes at once, and a smaller one after the time to gather."""
    batcher = make(batches_in_flight_max=3, batch_gather_s=0.05)
    journal.gate.clear()
    waiting = [asyncio.create_task(batcher.submit(1))]
    await asyncio.sleep(0.01)
    waiting += [asyncio.create_task(batcher.submit(item)) for item in (2, 3, 4, 5, 6)]
    await asyncio.sleep(0.01)
    assert journal.batches == [[1], [2, 3, 4, 5]]
    await asyncio.sleep(0.08)
    assert journal.batches == [[1], [2, 3, 4, 5], [6]]
    journal.gate.set()
    assert await asyncio.gather(*waiting) == [10, 20, 30, 40, 50, 60]


async def test_a_batch_that_waits_for_others_for_long_keeps_no_further_one_from_starting(
    make: Callable[..., Batcher[int, int]], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the others answer quickly it counts as one at work; and again when they have answered."""
    monkeypatch.setattr("common.batching._SLOW_AFTER_S", 0.3)
    answered, finished = asyncio.Event(), asyncio.Event()

    async def run(items: Sequence[int]) -> list[int | Exception]:
        with batcher.waiting():
            outcomes = await journal.run(items)
            await answered.wait()
        await finished.wait()
        return outcomes

    batcher = make()
    batcher._run = run
    waiting = [asyncio.create_task(batcher.submit(1))]
    await asyncio.sleep(0.01)
    waiting.append(asyncio.create_task(batcher.submit(2)))
    await asyncio.sleep(0.1)
    assert journal.batches == [[1]]
    await asyncio.sleep(0.3)
    assert journal.batches == [[1], [2]]

    answered.set()
    await asyncio.sleep(0.01)
    waiting.append(asyncio.create_task(batcher.submit(3)))
    await asyncio.sleep(0.4)
    assert journal.batches == [[1], [2]]
    finished.set()
    assert await asyncio.gather(*waiting) == [10, 20, 30]
    async with asyncio.timeout(1):
        await batcher.drain()


async def test_an_items_own_error_is_its_own(make: Callable[..., Batcher[int, int]]) -> None:
    """The refused item raises; its neighbours get their results."""
    one, refused, other = await submit(make(), 1, 7, 2)
    assert (one, other) == (10, 20)
    assert isinstance(refused, OutOfStock)


async def test_a_culprit_is_found_by_halves(make: Callable[..., Batcher[int, int]], journal: Journal) -> None:
    """A batch that is rejected as a whole is run again in halves until the culprit is alone."""
    journal.poison = {3: ValueError("bad value")}

    outcomes = await submit(make(), 1, 2, 3, 4)

    assert [outcomes[0], outcomes[1], outcomes[3]] == [10, 20, 40]
    assert isinstance(outcomes[2], ValueError)
    assert journal.batches == [[1, 2, 3, 4], [1, 2], [3, 4], [3], [4]]


@pytest.mark.parametrize("items", [(1,), (1, 2, 3)])
async def test_a_wrong_number_of_outcomes_leaves_nobody_waiting(
    items: tuple[int, ...], make: Callable[..., Batcher[int, int]], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whose they are, so everybody is told so, and nothing is run again."""
    batcher = make()
    monkeypatch.setattr(batcher, "_run", lambda batch: asyncio.sleep(0, [10, 20]))
    async with asyncio.timeout(1):
        outcomes = await submit(batcher, *items)
    assert [type(outcome) for outcome in outcomes] == [InternalError] * len(items)
    monkeypatch.undo()
    assert await batcher.submit(4) == 40


async def test_an_outage_is_everybodys(make: Callable[..., Batcher[int, int]], journal: Journal) -> None:
    """A database that cannot be reached is not asked again for each half."""
    journal.poison = {3: DatabaseUnavailable()}

    outcomes = await submit(make(), 1, 2, 3, 4)

    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 4
    assert journal.batches == [[1, 2, 3, 4]]


async def test_a_caller_that_goes_away_disturbs_nobody(
    make: Callable[..., Batcher[int, int]], journal: Journal
) -> None:
    """Its item is carried out all the same, and the others get their own outcomes."""
    batcher = make()
    journal.gate.clear()
    callers = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
    await asyncio.sleep(0.01)
    callers[1].cancel()
    journal.gate.set()

    outcomes = await asyncio.gather(*callers, return_exceptions=True)

    assert [outcomes[0], outcomes[2]] == [10, 30]
    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert journal.batches == [[1, 2, 3]]


async def test_a_full_queue_refuses(make: Callable[..., Batcher[int, int]], journal: Journal) -> None:
    """One item more than the queue takes is refused at once, with the time after which to come back."""
    batcher = make(batch_queue_max=2)
    journal.gate.clear()
    waiting = [asyncio.create_task(batcher.submit(1))]
    await asyncio.sleep(0.01)
    waiting += [asyncio.create_task(batcher.submit(item)) for item in (2, 3)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded) as refused:
        await batcher.submit(4)

    assert refused.value.retry_after_s
    journal.gate.set()
    assert await asyncio.gather(*waiting) == [10, 20, 30]


async def test_drain_waits_for_all(make: Callable[..., Batcher[int, int]], journal: Journal) -> None:
    """After draining, every item that was submitted has its outcome."""
    batcher = make()
    waiting = [asyncio.create_task(batcher.submit(item)) for item in range(1, 7)]
    await asyncio.sleep(0)
    await batcher.drain()
    assert all(task.done() or task in waiting for task in waiting)
    assert await asyncio.gather(*waiting) == [10, 20, 30, 40, 50, 60]


async def test_switched_off_every_item_is_alone(make: Callable[..., Batcher[int, int]], journal: Journal) -> None:
    """With max_batch=1 nothing is shared and nothing waits for another."""
    batcher = make(max_batch=1)
    journal.gate.clear()
    waiting = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
    await asyncio.sleep(0.01)
    assert journal.batches == [[1], [2], [3]]
    journal.gate.set()
    assert await asyncio.gather(*waiting) == [10, 20, 30]


async def test_a_shared_batch_has_nobodys_context(make: Callable[..., Batcher[int, int]]) -> None:
    """The deadline of one caller is not the others'; who is alone keeps his own."""
    seen = []

    async def run(items: Sequence[int]) -> list[int]:
        seen.append((list(items), context.seconds_left(60)))
        return list(items)

    batcher: Batcher[int, int] = make()
    batcher._run = run
    context.set_deadline(0.0)
    await submit(batcher, 2, 3)
    await batcher.submit(1)
    assert seen == [([2, 3], 60), ([1], 0)]


async def test_items_that_come_one_at_a_time_run_in_their_callers_task(
    make: Callable[..., Batcher[int, int]],
) -> None:
    """Whoever has been alone is not handed to another task; the first batch that is shared ends that."""
    seen = []

    async def run(items: Sequence[int]) -> list[int]:
        seen.append((list(items), asyncio.current_task()))
        await asyncio.sleep(0)
        return list(items)

    batcher: Batcher[int, int] = make()
    batcher._run = run
    own_task = asyncio.current_task()
    for item in (1, 2, 3):
        await batcher.submit(item)
        await asyncio.sleep(0)
    assert [task is own_task for _, task in seen] == [False, True, True]

    await submit(batcher, 4, 5, 6)
    await asyncio.sleep(0)
    await batcher.submit(7)
    assert [items for items, _ in seen[3:]] == [[4], [5, 6], [7]]
    assert seen[-1][1] is not own_task


async def test_what_waits_behind_a_lone_item_goes_even_if_that_is_cancelled(
    make: Callable[..., Batcher[int, int]], journal: Journal
) -> None:
    """A lone caller that goes away takes its own item with it, and nobody else's."""
    batcher = make()
    await batcher.submit(1)
    await asyncio.sleep(0)
    journal.gate.clear()
    lone = asyncio.create_task(batcher.submit(2))
    await asyncio.sleep(0)
    behind = asyncio.create_task(batcher.submit(3))
    await asyncio.sleep(0)
    lone.cancel()
    journal.gate.set()
    assert await behind == 30
    assert journal.batches == [[1], [2], [3]]


async def test_items_gather_until_they_are_as_many_as_are_in_flight(journal: Journal) -> None:
    """Where several batches may be in flight, the next one becomes as large as those ahead, but not at any price."""
    settings = ServiceSettings(database_url=SecretStr("mysql://u:p@h/d"), port=1, max_batch=8, batch_gather_s=60)
    batcher: Batcher[int, int] = Batcher("test", journal.run, settings, Metrics("test"), in_flight_max=9)
    journal.gate.clear()
    ahead = asyncio.create_task(submit(batcher, 1, 2, 3))
    await asyncio.sleep(0.01)
    two = asyncio.create_task(submit(batcher, 4, 5))
    await asyncio.sleep(0.02)
    assert journal.batches == [[1, 2, 3]]
    third = asyncio.create_task(batcher.submit(6))
    await asyncio.sleep(0.01)
    assert journal.batches == [[1, 2, 3], [4, 5, 6]]
    journal.gate.set()
    assert [*await ahead, *await two, await third] == [10, 20, 30, 40, 50, 60]


async def test_items_do_not_gather_for_long(make: Callable[..., Batcher[int, int]], journal: Journal) -> None:
    """Few of them go after ``batch_gather_s``, although more are in flight."""
    batcher = make(max_batch=8, batches_in_flight_max=2, batch_gather_s=0.02)
    journal.gate.clear()
    ahead = asyncio.create_task(submit(batcher, 1, 2, 3))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(1):
        lone = asyncio.create_task(batcher.submit(4))
        while len(journal.batches) < 2:
            await asyncio.sleep(0.001)
    journal.gate.set()
    assert [*await ahead, await lone] == [10, 20, 30, 40]


async def test_a_burst_that_takes_several_turns_is_one_batch(
    make: Callable[..., Batcher[int, int]], journal: Journal
) -> None:
    """A server reads what its clients sent at once over several turns of its event loop."""
    batcher = make(max_batch=8)
    callers = []
    for item in range(1, 5):
        callers.append(asyncio.create_task(batcher.submit(item)))
        await asyncio.sleep(0)
    assert await asyncio.gather(*callers) == [10, 20, 30, 40]
    assert journal.batches == [[1, 2, 3, 4]]


async def test_drain_waits_also_for_items_that_gather(make: Callable[..., Batcher[int, int]], journal: Journal) -> None:
    """What was taken in is carried out before the service ends, whether it is on its way yet or not."""
    batcher = make(max_batch=8, batches_in_flight_max=2, batch_gather_s=0.02)
    journal.gate.clear()
    ahead = asyncio.create_task(submit(batcher, 1, 2))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(batcher.submit(3))
    await asyncio.sleep(0)
    journal.gate.set()
    await batcher.drain()
    assert journal.batches == [[1, 2], [3]]
    assert [*await ahead, await waiting] == [10, 20, 30]


async def test_a_large_burst_begins_as_two_batches(make: Callable[..., Batcher[int, int]], journal: Journal) -> None:
    """Where two may be in flight, one is prepared while the other is at the database."""
    journal.gate.clear()
    batcher = make(max_batch=64, batches_in_flight_max=2, batch_gather_s=60)
    outcomes = asyncio.create_task(submit(batcher, *range(1, 34)))
    await asyncio.sleep(0.01)
    assert journal.batches == [[*range(1, 17)], [*range(17, 34)]]
    journal.gate.set()
    assert len(await outcomes) == 33


@pytest.mark.parametrize("max_batch", [1, 4])
@pytest.mark.parametrize("items", [1, 3], ids=["alone", "together"])
async def test_who_waits_no_longer_leaves_its_item_there(
    items: int, max_batch: int, make: Callable[..., Batcher[int, int]], journal: Journal
) -> None:
    """It is carried out once, its outcome is told in the caller's context, and those who wait get theirs."""
    batcher = make(max_batch=max_batch)
    journal.gate.clear()
    told: list[tuple[object, str | None]] = []
    clock = asyncio.get_running_loop().time

    async def impatient(item: int) -> int:
        context.request_id.set(f"request-{item}")
        return await batcher.submit_until(
            item, clock() + 0.05, lambda outcome: told.append((outcome, context.request_id.get()))
        )

    patient = [asyncio.create_task(batcher.submit(item)) for item in range(2, items + 1)]
    with pytest.raises(StillRunning):
        await asyncio.create_task(impatient(1))
    assert told == []
    journal.gate.set()

    assert await asyncio.gather(*patient) == [10 * item for item in range(2, items + 1)]
    await batcher.drain()
    assert told == [(10, "request-1")]
    assert sorted(item for batch in journal.batches for item in batch) == [*range(1, items + 1)]


async def test_who_has_its_outcome_in_time_is_told_nothing_later(
    make: Callable[..., Batcher[int, int]], journal: Journal
) -> None:
    """Also when it is an error."""
    batcher, told = make(), list[object]()
    until = asyncio.get_running_loop().time() + 5
    assert await batcher.submit_until(1, until, told.append) == 10
    with pytest.raises(OutOfStock):
        await batcher.submit_until(7, until, told.append)
    await batcher.drain()
    assert told == []


async def test_a_late_error_is_told(make: Callable[..., Batcher[int, int]], journal: Journal) -> None:
    """As the outcome that it is."""
    batcher, told = make(), list[object]()
    journal.gate.clear()
    with pytest.raises(StillRunning):
        await batcher.submit_until(7, asyncio.get_running_loop().time(), told.append)
    journal.gate.set()
    await batcher.drain()
    assert [type(outcome) for outcome in told] == [OutOfStock]


async def test_a_caller_that_is_cancelled_is_told_of_as_one_that_left(
    make: Callable[..., Batcher[int, int]], journal: Journal
) -> None:
    """Somebody must hear what becomes of the item."""
    batcher, told = make(), list[object]()
    journal.gate.clear()
    caller = asyncio.create_task(batcher.submit_until(1, asyncio.get_running_loop().time() + 60, told.append))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.wait([caller])
    journal.gate.set()
    await batcher.drain()
    assert (caller.cancelled(), told) == (True, [10])


async def test_a_timeout_of_the_work_is_not_taken_for_impatience(
    make: Callable[..., Batcher[int, int]], journal: Journal
) -> None:
    """It is the outcome, which is there: nothing goes on, and nothing is told later."""
    batcher, told = make(), list[object]()
    journal.poison[1] = TimeoutError()
    with pytest.raises(TimeoutError):
        await batcher.submit_until(1, asyncio.get_running_loop().time() + 5, told.append)
    await batcher.drain()
    assert told == []
