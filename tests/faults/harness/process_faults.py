"""Faults of a process: it is killed, stopped, or told to end, in the middle of everything."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.faults.harness.cluster import Cluster

Inflict = Callable[[Cluster, random.Random], Awaitable[int]]


def killed(name: str) -> Inflict:
    """``kill -9``; it is started again within a second."""

    async def inflict(cluster: Cluster, rng: random.Random) -> int:
        process = cluster.processes[name]
        async with process.to_ourselves:
            process.kill()
            await asyncio.sleep(rng.uniform(0, 1))
            await process.start().ready()
        return 1

    return inflict


def told_to_end(name: str) -> Inflict:
    """SIGTERM; it finishes what it does, and is started again."""

    async def inflict(cluster: Cluster, rng: random.Random) -> int:
        process = cluster.processes[name]
        async with process.to_ourselves:
            process.terminate()
            await process.ended()
            await asyncio.sleep(rng.uniform(0, 0.5))
            await process.start().ready()
        return 1

    return inflict


def asleep(name: str) -> Inflict:
    """SIGSTOP for longer than a lease, then SIGCONT: it goes on where it was, and others have taken over meanwhile."""

    async def inflict(cluster: Cluster, rng: random.Random) -> int:
        process = cluster.processes[name]
        lease_s = float(cluster.settings["ORDER_LEASE_S"])
        async with process.to_ourselves:
            process.suspend()
            try:
                await asyncio.sleep(lease_s * rng.uniform(1.2, 2.2))
            finally:
                process.resume()
            await process.ready()
        return 1

    return inflict
