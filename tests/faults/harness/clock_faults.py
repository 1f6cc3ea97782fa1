"""The clock of one process is an hour off: libfaketime is loaded into it."""

import asyncio
import email.utils
import functools
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.faults.harness.cluster import Cluster
from tests.faults.harness.database_faults import root_cursor
from tests.faults.harness.metrics import get
from vv import apt
from vv.apt import Package
from vv.errors import Unavailable
from vv.output import say_aside

Inflict = Callable[[Cluster, random.Random], Awaitable[int]]

_HOUR_S = 3_600
_TOLERANCE_S = 60
_PACKAGE = Package(
    "libfaketime",
    missing="No libfaketime was found on this machine, so no clock can be set wrong.",
    what_to_do="Install it (on Debian and Ubuntu: apt-get install libfaketime).",
)


@functools.cache
def library() -> Path:
    """The library that makes a process see another time, installed first where it is missing. Raises Unavailable."""
    return apt.find_or_install(_find, _PACKAGE, say_aside)


def why_not(_: Cluster) -> str | None:
    """Why no clock can be set wrong here. Blocks."""
    try:
        library()
    except Unavailable as error:
        return str(error)
    return None


def hour_off(name: str) -> Inflict:
    """A process dies and comes back with a clock that is an hour fast or slow; after 1 to 3 seconds it is mended."""

    async def inflict(cluster: Cluster, rng: random.Random) -> int:
        process = cluster.processes[name]
        offset_s = rng.choice((_HOUR_S, -_HOUR_S))
        async with process.to_ourselves:
            try:
                process.kill()
                await process.start(
                    LD_PRELOAD=str(library()),
                    FAKETIME=f"{offset_s:+d}",
                    # Timers go by a clock that nobody can set.
                    FAKETIME_DONT_FAKE_MONOTONIC="1",
                    # So that it leaves waits by that clock alone, too, which in MySQL would end at once, for ever.
                    FAKETIME_FORCE_MONOTONIC_FIX="0",
                ).ready()
                seen_s = await _ahead_s(cluster, name)
                await asyncio.sleep(rng.uniform(1, 3))
            finally:
                process.kill()
                await process.start().ready()
        return int(abs(seen_s - offset_s) < _TOLERANCE_S)

    return inflict


def _find() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


async def _ahead_s(cluster: Cluster, name: str) -> float:
    """How many seconds the clock of a process is ahead of ours."""
    if name == "database":
        async with root_cursor(cluster) as cursor:
            await cursor.execute("SELECT UNIX_TIMESTAMP()")
            return float((await cursor.fetchone())[0]) - time.time()
    return await asyncio.to_thread(_date_of, f"{cluster.direct_url(name)}/livez") - time.time()


def _date_of(url: str) -> float:
    return email.utils.parsedate_to_datetime(get(url)[0]["Date"]).timestamp()
