"""Requests for a SKU that somebody else holds queue for it, so that they hold up no others."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

from common import context
from common.batching import Batcher, as_outcome
from common.contracts.inventory import StockChange, StockLocked
from common.errors import ServiceError
from common.telemetry import Metrics
from inventory_service.metrics import StockMetrics
from inventory_service.settings import Settings

Item = TypeVar("Item")
Items = TypeVar("Items", contravariant=True)

# How long, in seconds, a request with many items waits for those whose SKU is held while nothing of it is given out.
# Long beside a transaction, short beside what a buyer notices.
_PATIENCE_S = 0.1
# How long, in seconds, a request with one item does, if its caller has as much time.
_WAIT_MAX_S = 5.0
# How often, in seconds, a queue looks whether its SKU is free while it may not wait for it in the database.
_LOOK_AGAIN_S = 0.05
# The connections that wait for locks, as a share of the pool: the others are for those who need not wait.
_WAITING_SHARE = 0.25


class Change(Protocol[Items]):
    """Changes stock: ``wait_for`` is the one SKU whose lock may be waited for, ``avoid`` those not to be touched."""

    async def __call__(
        self, items: Sequence[Items], /, *, wait_for: str | None = None, avoid: Collection[str] = ()
    ) -> list[StockChange | ServiceError]: ...


def waiting_slots(settings: Settings) -> asyncio.Semaphore:
    """How many connections of a pool may wait for locks. All queues in front of the pool share them."""
    return asyncio.Semaphore(max(1, int(settings.pool_size_max * _WAITING_SHARE)))


@dataclass
class _LockedSku(Generic[Item]):
    """A SKU that somebody holds: those who wait for it, and when the last of them were served (or the first came)."""

    batcher: Batcher[Item, StockChange]
    served: float = field(default_factory=time.monotonic)
    waiting: "set[asyncio.Task[StockChange]]" = field(default_factory=set)


class SkuQueue(Generic[Item]):
    """Group commit in front of ``change``. What a lock keeps back queues for its SKU, in arrival order."""

    def __init__(
        self,
        name: str,
        change: Change[Item],
        slots: asyncio.Semaphore,
        settings: Settings,
        metrics: Metrics,
        stock_metrics: StockMetrics,
    ) -> None:
        self._name = name
        self._change = change
        self._slots = slots
        self._settings = settings
        self._metrics = metrics
        self._lock_wait = stock_metrics.lock_wait
        self._free: Batcher[Item, StockChange] = Batcher(name, self._change_free, settings, metrics)
        self._held: dict[str, _LockedSku[Item]] = {}

    async def submit(self, item: Item) -> StockChange:
        """The outcome of the item. Raises its own error, and StockLocked when the caller's deadline is near."""
        until = time.monotonic() + context.seconds_to_answer(_WAIT_MAX_S)
        return await self._submit(item, lambda _: until, "gave_up")

    async def submit_all(self, items: Iterable[Item]) -> list[StockChange | ServiceError]:
        """The outcome of each item, in order. StockLocked comes soon: the others are not to wait for it."""
        # Where each is alone nobody is kept waiting by the others.
        submit = self._submit_impatiently if self._settings.max_batch > 1 else self.submit
        outcomes = await asyncio.gather(*map(submit, items), return_exceptions=True)
        return [as_outcome(outcome) for outcome in outcomes]

    async def drain(self) -> None:
        """Wait until every item that was submitted has its outcome."""
        await self._free.drain()
        while waiting := [task for held in self._held.values() for task in held.waiting]:
            await asyncio.wait(waiting)

    async def _submit_impatiently(self, item: Item) -> StockChange:
        return await self._submit(item, lambda held: held.served + _PATIENCE_S, "put_off")

    async def _submit(self, item: Item, until: Callable[[_LockedSku[Item]], float], in_vain: str) -> StockChange:
        """``in_vain`` is what the metrics call it if nothing comes of waiting."""
        try:
            return await self._free.submit(item)
        except StockLocked as error:
            locked = error
        came, outcome = time.perf_counter(), "served"
        try:
            return await self._queue(item, locked, until)
        except (StockLocked, asyncio.CancelledError):
            outcome = in_vain
            raise
        finally:
            self._lock_wait.labels(outcome).observe(time.perf_counter() - came)

    async def _queue(self, item: Item, locked: StockLocked, until: Callable[[_LockedSku[Item]], float]) -> StockChange:
        while True:
            sku = locked.extra["sku"]
            held = self._held.get(sku) or self._queue_of(sku)
            outcome = await self._wait(sku, held, item, until)
            if outcome is None:
                raise locked
            try:
                return outcome.result()
            except StockLocked as error:
                # That one is free, and another one of the cart is not; or it is still held, and others may have a try.
                locked = error

    async def _wait(
        self, sku: str, held: _LockedSku[Item], item: Item, until: Callable[[_LockedSku[Item]], float]
    ) -> "asyncio.Task[StockChange] | None":
        """The outcome, unless time is over before; an item that has been waiting is not taken back then."""
        if time.monotonic() >= until(held):
            return None
        task = asyncio.create_task(held.batcher.submit(item))
        self._held[sku] = held
        held.waiting.add(task)
        task.add_done_callback(partial(self._left, sku, held))
        while not task.done() and (seconds := until(held) - time.monotonic()) > 0:
            await asyncio.wait([task], timeout=seconds)
        return task if task.done() else None

    def _queue_of(self, sku: str) -> _LockedSku[Item]:
        run = partial(self._change_held, sku, asyncio.Lock())
        return _LockedSku(Batcher(f"{self._name}_held", run, self._settings, self._metrics, in_flight_max=1))

    def _left(self, sku: str, held: _LockedSku[Item], task: "asyncio.Task[StockChange]") -> None:
        held.waiting.discard(task)
        # Retrieved, or asyncio complains when nobody waits any longer.
        task.cancelled() or task.exception()
        if not held.waiting and self._held.get(sku) is held:
            del self._held[sku]

    async def _change_free(self, items: Sequence[Item]) -> list[StockChange | ServiceError]:
        # Whoever comes later does not get ahead of those who wait.
        return await self._change(items, avoid=frozenset(self._held))

    async def _change_held(
        self, sku: str, turn: asyncio.Lock, items: Sequence[Item]
    ) -> list[StockChange | ServiceError]:
        # Without batches each item comes by itself, and all of them at once.
        async with turn:
            outcomes = await self._take_slot_or_look(sku, items)
        if not _is_held(sku, outcomes) and (held := self._held.get(sku)):
            held.served = time.monotonic()
        return outcomes

    async def _take_slot_or_look(self, sku: str, items: Sequence[Item]) -> list[StockChange | ServiceError]:
        """Give up after about one lock wait in either case: some who wait may have gone away by then."""
        until = time.monotonic() + self._settings.lock_wait_s
        # Nobody queues for a slot: those who wait for strangers are not to keep back whose SKU is free by now.
        while self._slots.locked():
            outcomes = await self._change(items)
            if not _is_held(sku, outcomes) or time.monotonic() >= until:
                return outcomes
            await asyncio.sleep(_LOOK_AGAIN_S)
        async with self._slots:
            return await self._change(items, wait_for=sku)


def _is_held(sku: str, outcomes: Iterable[StockChange | ServiceError]) -> bool:
    """Whether it was this SKU that kept all of them back."""
    return all(isinstance(outcome, StockLocked) and outcome.extra["sku"] == sku for outcome in outcomes)
