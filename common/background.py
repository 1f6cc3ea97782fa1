"""What goes on beside the requests: loops, and the points at which tests kill the process."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

CrashPoints = Callable[[str], None]


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


def crash_points(armed: str | None) -> CrashPoints:
    """A function that kills the process, as ``kill -9`` does, when it is called with the name ``armed``.

    The fault tests arm it through the environment; unarmed it does nothing.
    """

    def reached(name: str) -> None:
        if name == armed:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached
