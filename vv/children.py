"""The life of the processes of a stack: watched while they start, started again when they die, stopped in order."""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from vv import process
from vv.errors import Unavailable
from vv.output import Say
from vv.process import Child

T = TypeVar("T")

# Longer than a service drains: 0.5 s, 10 s for requests that are on their way, and 20 s.
STOP_TIMEOUT_S = 35.0

_RESTART_DELAY_MIN_S = 0.2
_RESTART_DELAY_MAX_S = 5.0
# Whoever ran this long did not die of its start.
_RAN_WELL_S = 30.0


def check_start(child: Child, deadline: float | None, why_not_ready: str) -> None:
    """Go on waiting for a child that has been started, unless it has ended or its time is up: Unavailable."""
    if child.has_ended:
        problem = "did not start"
    elif deadline is not None and time.monotonic() > deadline:
        problem = f"did not become ready in time ({why_not_ready.removesuffix('.')})"
    else:
        return
    raise Unavailable(f"The {child.name} {problem}. The end of its log:\n{child.last_lines()}")


async def keep_alive(child: Child, started_again: Callable[[], None], say: Say) -> None:
    """Start a child again whenever it dies, and call ``started_again`` then; until cancelled."""
    delay = _RESTART_DELAY_MIN_S
    while True:
        started = time.monotonic()
        exit_code = await child.wait()
        if time.monotonic() - started > _RAN_WELL_S:
            delay = _RESTART_DELAY_MIN_S
        say(f"The {child.name} ended ({process.how_it_ended(exit_code)}); starting it again in {delay:g} s.")
        child.forget_crash_points()
        await asyncio.sleep(delay)
        delay = min(2 * delay, _RESTART_DELAY_MAX_S)
        try:
            await child.start()
        except OSError as error:
            say(f"The {child.name} could not be started: {error.strerror}.")
        else:
            say(f"The {child.name} was started again (pid {child.pid}).")
            started_again()


async def end(children: Sequence[Child], hurry: asyncio.Event, say: Say) -> None:
    """Have them end, with SIGKILL for those that are still there when their time is up or ``hurry`` is set."""
    for child in children:
        child.send(child.stop_signal)
    hurried = asyncio.create_task(hurry.wait())
    ends = {asyncio.create_task(child.wait()): child for child in children if child.pid is not None}
    remaining = set(ends)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while remaining and not hurried.done() and time.monotonic() < deadline:
        await asyncio.wait(
            {*remaining, hurried}, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED
        )
        remaining = {each for each in remaining if not each.done()}
    for each in remaining:
        say(f"The {ends[each].name} (pid {ends[each].pid}) is still there; killing it.")
        ends[each].send(signal.SIGKILL)
    await asyncio.gather(*ends)
    hurried.cancel()


async def in_thread(work: Callable[[], T]) -> T:
    """Do blocking work in a thread; when cancelled still wait for its end, for it works on what we stop next."""
    thread = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise
