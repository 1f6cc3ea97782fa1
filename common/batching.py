"""Group commit: items that arrive while others are on their way share the next transaction or call."""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from common import tracing
from common.context import trace_context
from common.errors import InternalError, Overloaded, ServiceError
from common.settings import ServiceSettings
from common.telemetry import Metrics, log

Item = TypeVar("Item")
Result = TypeVar("Result")

# Of fewer items each half would cost almost as much as the whole.
_WORTH_HALVING = 16
# How long, in seconds, a batch that waits for others keeps further ones back: several times what a quick answer takes.
_SLOW_AFTER_S = 0.1
# Batches on their way at once, however many of them wait. More than the failures that open a circuit breaker.
_RUNNING_MAX = 64

# Refusals that no item of a batch is to blame for.
_ABOUT_THE_CALLER = (401, 403)
_ONE = {"vv.batch.items": 1}

RunBatch = Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]]


class StillRunning(Exception):
    """Nobody waits for this item any longer; it goes on."""


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    outcome: asyncio.Future[Result]
    since: float
    context: contextvars.Context
    late: "Callable[[Result | Exception], None] | None" = None

    def give_up(self) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(StillRunning())

    def settle(self, outcome: Result | Exception) -> None:
        if self.outcome.done():
            if self.late is not None:
                # A copy, as a batch of one runs in the context itself.
                self.context.copy().run(self.late, outcome)
        elif isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


def as_outcome(result: Result | BaseException) -> Result | ServiceError:
    """What the caller of an item is told; an error that nobody expected is logged, and becomes an InternalError."""
    if isinstance(result, ServiceError) or not isinstance(result, BaseException):
        return result
    if not isinstance(result, Exception):
        raise result
    log.error("internal_error", exc_info=result)
    return InternalError()


async def run_in_halves(run: RunBatch[Item, Result], items: Sequence[Item]) -> Sequence[Result | Exception]:
    """One outcome an item, in order; what all of them are refused for is found by running their halves."""
    if not items:
        return []
    try:
        return await _run(run, [*items])
    except Exception as error:
        is_outage = isinstance(error, ServiceError) and (not error.is_refusal or error.status in _ABOUT_THE_CALLER)
        if len(items) == 1 or is_outage:
            return [error] * len(items)
    middle = len(items) // 2
    return [*await run_in_halves(run, items[:middle]), *await run_in_halves(run, items[middle:])]


async def _run(run: RunBatch[Item, Result], items: list[Item]) -> Sequence[Result | Exception]:
    outcomes = await run(items)
    if len(outcomes) != len(items):
        # Whose they are nobody can tell.
        log.error("internal_error", problem=f"{len(outcomes)} outcomes of {len(items)} items")
        raise InternalError()
    return outcomes


class Batcher(Generic[Item, Result]):
    """Runs items in batches; each caller gets the outcome of its own item.

    ``run`` takes a list and gives one outcome an item, in order; an outcome that is an exception is raised to the
    caller of that item. While nothing is in flight items wait only as long as each turn of the event loop brings
    further ones, and many begin as two batches. While something is, they gather until they are as many as are in flight
    (few large batches cost less than many small ones), or a full batch, or ``batch_gather_s`` seconds have passed; and
    until fewer than ``in_flight_max`` batches are in flight, not counting those that have long been :meth:`waiting`.

    As long as items come one at a time, each runs in its caller's own task; with ``max_batch=1`` all do.

    A batch is a span in the trace of one of its items, linked to the others; those of them that go on
    here are linked to it.
    """

    def __init__(
        self,
        name: str,
        run: RunBatch[Item, Result],
        settings: ServiceSettings,
        metrics: Metrics,
        *,
        in_flight_max: int | None = None,
    ) -> None:
        self._name = name
        self._run = run
        self._settings = settings
        self._in_flight_max = in_flight_max or settings.batches_in_flight_max
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._running: dict[asyncio.Future[None], int] = {}
        # How many of them have been waiting for others for long.
        self._aside = 0
        self._last_was_alone = False
        self._seen = 0
        self._next_look: asyncio.Handle | None = None
        self._size = metrics.batch_size.labels(name)
        self._wait = metrics.batch_wait.labels(name)
        self._in_flight = metrics.batches_in_flight.labels(name)

    async def submit(self, item: Item) -> Result:
        """The outcome of the item. Raises the item's own error, and Overloaded when the queue is full.

        A caller that goes away does not take back an item that waits, or shares a batch.
        """
        if self._settings.max_batch == 1:
            return await self._run_alone(item)
        if self._is_idle:
            running: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._begin(running, 1)
            self._wait.observe(0)
            try:
                return await self._run_alone(item)
            finally:
                running.set_result(None)
        waiting = self._waiting(item)
        self._enqueue(waiting)
        return await waiting.outcome

    async def submit_until(self, item: Item, until: float, late: Callable[[Result | Exception], None]) -> Result:
        """As :meth:`submit`, but raises StillRunning when the event loop's clock says ``until``.

        Nothing takes the item back: ``late`` is called, in the caller's context, with an outcome for which nobody
        waits any longer.
        """
        waiting = self._waiting(item, late)
        if self._settings.max_batch == 1 or self._is_idle:
            self._run_aside(waiting)
        else:
            self._enqueue(waiting)
        timer = asyncio.get_running_loop().call_at(until, waiting.give_up)
        try:
            return await waiting.outcome
        finally:
            timer.cancel()

    async def submit_all(self, items: Iterable[Item]) -> list[Result | ServiceError]:
        """The outcome of each item, in order; an item's own error is its outcome."""
        outcomes = await asyncio.gather(*(self.submit(item) for item in items), return_exceptions=True)
        return [as_outcome(outcome) for outcome in outcomes]

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For a batch's own use: it waits for others meanwhile. When that takes long it keeps no further batch back."""
        is_aside = False

        def step_aside() -> None:
            nonlocal is_aside
            is_aside = True
            self._aside += 1
            self._start_batches()

        timer = asyncio.get_running_loop().call_later(_SLOW_AFTER_S, step_aside)
        try:
            yield
        finally:
            timer.cancel()
            self._aside -= is_aside

    async def drain(self) -> None:
        """Wait until every item that was submitted has its outcome."""
        while self._running or self._queue:
            if self._running:
                await asyncio.wait([*self._running])
            else:
                await asyncio.sleep(self._settings.batch_gather_s)

    @property
    def _is_idle(self) -> bool:
        """Whether an item that comes now would be alone, as the last one was."""
        return self._last_was_alone and not self._running and not self._queue

    def _waiting(
        self, item: Item, late: "Callable[[Result | Exception], None] | None" = None
    ) -> _Waiting[Item, Result]:
        outcome: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        return _Waiting(item, outcome, time.perf_counter(), contextvars.copy_context(), late)

    def _enqueue(self, waiting: _Waiting[Item, Result]) -> None:
        if len(self._queue) >= self._settings.batch_queue_max:
            raise Overloaded("The queue is full.", retry_after_s=1)
        self._queue.append(waiting)
        # Not at once: what arrives in the same turn of the event loop goes together.
        self._look_again_in(0)

    def _run_aside(self, waiting: _Waiting[Item, Result]) -> None:
        self._begin(asyncio.create_task(self._run_batch([waiting])), 1)

    def _start_batches(self) -> None:
        while self._queue and self._at_work < self._in_flight_max and len(self._running) < _RUNNING_MAX:
            wait_s = self._wait_s()
            if wait_s is not None:
                self._look_again_in(wait_s)
                return
            batch = [self._queue.popleft() for _ in range(self._size_of_next())]
            # Deadline, request id and trace of one caller are not the others'; an item that is alone keeps its own.
            context = batch[0].context if len(batch) == 1 else contextvars.Context()
            self._begin(asyncio.get_running_loop().create_task(self._run_batch(batch), context=context), len(batch))

    def _size_of_next(self) -> int:
        count = len(self._queue)
        if not self._at_work and self._in_flight_max > 1 and count >= _WORTH_HALVING:
            # Two batches take turns: while one is with the database the event loop prepares the other.
            count //= 2
        return min(count, self._settings.max_batch)

    def _wait_s(self) -> float | None:
        """Seconds until a batch of what has gathered may be due; ``None`` if it is now, 0 for the loop's next turn."""
        count = len(self._queue)
        if count >= self._settings.max_batch:
            return None
        if not self._at_work:
            # A burst takes several turns to arrive.
            is_growing, self._seen = count > self._seen, count
            return 0 if is_growing else None
        left_s = self._settings.batch_gather_s - (time.perf_counter() - self._queue[0].since)
        return left_s if count < sum(self._running.values()) and left_s > 0 else None

    @property
    def _at_work(self) -> int:
        return len(self._running) - self._aside

    def _begin(self, batch: "asyncio.Future[None]", size: int) -> None:
        self._last_was_alone = size == 1
        self._seen = 0
        self._in_flight.inc()
        self._size.observe(size)
        self._running[batch] = size
        batch.add_done_callback(self._end)

    def _end(self, batch: "asyncio.Future[None]") -> None:
        del self._running[batch]
        self._in_flight.dec()
        self._start_batches()

    def _look_again_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if seconds == 0 and isinstance(self._next_look, asyncio.TimerHandle):
            self._next_look.cancel()
            self._next_look = None
        if self._next_look is None:
            self._next_look = loop.call_later(seconds, self._look) if seconds else loop.call_soon(self._look)

    def _look(self) -> None:
        self._next_look = None
        self._start_batches()

    async def _run_alone(self, item: Item) -> Result:
        with tracing.span(f"batch {self._name}", attributes=_ONE):
            [outcome] = await _run(self._run, [item])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        started = time.perf_counter()
        for waiting in batch:
            self._wait.observe(started - waiting.since)
        traces = (waiting.context.get(trace_context) for waiting in batch)
        about = {"vv.batch.items": len(batch)}
        with tracing.shared_span(f"batch {self._name}", traces, about):
            await self._settle(batch)

    async def _settle(self, batch: list[_Waiting[Item, Result]]) -> None:
        outcomes = await run_in_halves(self._run, [waiting.item for waiting in batch])
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.settle(outcome)
