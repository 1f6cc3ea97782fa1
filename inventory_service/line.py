"""Those who want a SKU that somebody else holds wait beside the others, not in front of them."""

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
from inventory_service.settings import Settings

Item = TypeVar("Item")
Items = TypeVar("Items", contravariant=True)

# How long, in seconds, a request with many items waits for those whose SKU is held while nothing of it is given out.
# Long beside a transaction, short beside what a buyer notices.
_PATIENCE_S = 0.1
# How long, in seconds, a request with one item does, if its caller has as much time.
_WAIT_MAX_S = 5.0
# The connections that wait for locks, as a share of the pool: the others are for those who need not wait.
_WAITING_SHARE = 4


class Change(Protocol[Items]):
    """Changes stock: ``wait_for`` is the one SKU whose lock may be waited for, ``avoid`` those not to be touched."""

    async def __call__(
        self, items: Sequence[Items], /, *, wait_for: str | None = None, avoid: Collection[str] = ()
    ) -> list[StockChange | ServiceError]: ...


@dataclass
class _Held(Generic[Item]):
    """A SKU that somebody holds: those who wait for it, and when the last of them were served (or the first came)."""

    batcher: Batcher[Item, StockChange]
    served: float = field(default_factory=time.monotonic)
    waiting: "set[asyncio.Task[StockChange]]" = field(default_factory=set)


class Line(Generic[Item]):
    """Group commit in front of ``change``. What a lock keeps back waits in a line of its own SKU, in arrival order."""

    def __init__(self, name: str, change: Change[Item], settings: Settings, metrics: Metrics) -> None:
        self._name = name
        self._change = change
        self._settings = settings
        self._metrics = metrics
        self._free: Batcher[Item, StockChange] = Batcher(name, self._change_free, settings, metrics)
        self._held: dict[str, _Held[Item]] = {}
        self._slots = asyncio.Semaphore(max(1, settings.pool_size_max // _WAITING_SHARE))

    async def submit(self, item: Item) -> StockChange:
        """The outcome of the item. Raises its own error, and StockLocked when the caller's deadline is near."""
        # The caller is to hear it before he gives up by himself.
        until = time.monotonic() + 0.9 * context.seconds_left(_WAIT_MAX_S)
        return await self._submit(item, lambda _: until)

    async def submit_all(self, items: Iterable[Item]) -> list[StockChange | ServiceError]:
        """The outcome of each item, in order. StockLocked comes soon: the others are not to wait for it."""
        # Where each is alone nobody is kept waiting by the others.
        patience_s = _PATIENCE_S if self._settings.max_batch > 1 else _WAIT_MAX_S
        patient = (self._submit(item, lambda held: held.served + patience_s) for item in items)
        return [as_outcome(outcome) for outcome in await asyncio.gather(*patient, return_exceptions=True)]

    async def drain(self) -> None:
        """Wait until every item that was submitted has its outcome."""
        await self._free.drain()
        while waiting := [task for held in self._held.values() for task in held.waiting]:
            await asyncio.wait(waiting)

    async def _submit(self, item: Item, until: Callable[[_Held[Item]], float]) -> StockChange:
        try:
            return await self._free.submit(item)
        except StockLocked as error:
            locked = error
        while True:
            sku = locked.extra["sku"]
            held = self._held.get(sku) or self._line_of(sku)
            outcome = await self._wait(sku, held, item, until)
            if outcome is None:
                raise locked
            try:
                return outcome.result()
            except StockLocked as error:
                # That one is free, and another one of the cart is not.
                locked = error

    async def _wait(
        self, sku: str, held: _Held[Item], item: Item, until: Callable[[_Held[Item]], float]
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

    def _line_of(self, sku: str) -> _Held[Item]:
        run = partial(self._change_held, sku)
        return _Held(Batcher(f"{self._name}_held", run, self._settings, self._metrics, in_flight_max=1))

    def _left(self, sku: str, held: _Held[Item], task: "asyncio.Task[StockChange]") -> None:
        held.waiting.discard(task)
        # Retrieved, or asyncio complains when nobody waits any longer.
        task.cancelled() or task.exception()
        if not held.waiting and self._held.get(sku) is held:
            del self._held[sku]

    async def _change_free(self, items: Sequence[Item]) -> list[StockChange | ServiceError]:
        # Whoever comes later does not get ahead of those who wait.
        return await self._change(items, avoid=frozenset(self._held))

    async def _change_held(self, sku: str, items: Sequence[Item]) -> list[StockChange | ServiceError]:
        async with self._slots:
            outcomes = await self._change(items, wait_for=sku)
        if held := self._held.get(sku):
            held.served = time.monotonic()
        return outcomes
