"""A stack in the foreground: for as long as some work takes, or until a signal."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol


class Stack(Protocol):
    """What can be brought up as a whole: a :class:`vv.stack.Stack`, or several things that look like one."""

    async def start(self) -> None: ...

    async def run(self) -> None: ...

    async def stop(self) -> None: ...

    def hurry(self) -> None: ...

    def say(self, line: str, /) -> None: ...


async def while_up(stack: Stack, work: Callable[[], Awaitable[None]]) -> bool:
    """Start the stack, do ``work`` while it runs, and stop it. Only in the main thread.

    SIGINT, SIGTERM and SIGHUP end the work early; a second one hurries the stopping. Returns whether ``work``
    ended by itself. Raises what ``start`` and ``work`` raise.
    """
    job = asyncio.create_task(_start_and_work(stack, work))
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    received: list[signal.Signals] = []

    def interrupt(number: signal.Signals) -> None:
        received.append(number)
        if len(received) == 1:
            stack.say("Stopping.")
            job.cancel()
        else:
            stack.hurry()

    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, interrupt, number)
    try:
        await job
    except asyncio.CancelledError:
        if not received:
            raise
    finally:
        await stack.stop()
        for number in signals:
            loop.remove_signal_handler(number)
    return not received


async def _start_and_work(stack: Stack, work: Callable[[], Awaitable[None]]) -> None:
    await stack.start()
    keepers = asyncio.create_task(stack.run())
    working = asyncio.ensure_future(work())
    try:
        await asyncio.wait({keepers, working}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, keepers):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
    for task in (working, keepers):
        if not task.cancelled():
            await task
