"""What goes on beside the requests."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def running(loop: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a loop beside the block, and end it with the block."""
    task = asyncio.create_task(loop)
    try:
        yield
    finally:
        # A cancellation may get lost: the wait_for of Python 3.11 swallows one that comes at the wrong moment.
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=1)
        if not task.cancelled():
            task.result()
