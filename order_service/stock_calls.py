"""Calls to the inventory service that orders share, and what is left of them when somebody else holds a SKU."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from common.batching import Batcher
from common.contracts.inventory import StockChange, StockLocked

Item = TypeVar("Item")

# More of them wait in recovery instead; connections are left for those who share calls.
_ALONE_MAX = 128


class StockCalls(Batcher[Item, StockChange]):
    """A shared call leaves open what is locked; that is asked for again with ``alone``, which waits for it."""

    def __init__(self, *args: Any, alone: Callable[[Item], Awaitable[StockChange]]) -> None:
        super().__init__(*args)
        self._alone = alone
        self._alone_now = 0

    async def submit(self, item: Item) -> StockChange:
        """As of :class:`Batcher`; StockLocked when the wait was in vain, or too many wait already."""
        try:
            return await super().submit(item)
        except StockLocked:
            if self._alone_now >= _ALONE_MAX:
                raise
        self._alone_now += 1
        try:
            return await self._alone(item)
        finally:
            self._alone_now -= 1
