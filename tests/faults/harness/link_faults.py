"""Faults of a link that need no more than bytes: a trouble is imposed on it for a while."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.faults.harness import byte_troubles
from tests.faults.harness.cluster import Cluster
from tests.faults.harness.proxy import Trouble

# name: what it does, and the trouble.
TROUBLES: dict[str, tuple[str, Callable[[random.Random], Trouble]]] = {
    "latency": ("answers late", lambda rng: byte_troubles.Latency(rng, rng.uniform(0.02, 0.4))),
    "refused": ("refuses connections", lambda _: byte_troubles.Refusal()),
    "stall": ("lets nothing through, and then all of it at once", lambda _: byte_troubles.Stall()),
    "reset-in-reply": (
        "breaks in the middle of some replies",
        lambda rng: byte_troubles.ResetInReply(rng, rng.uniform(0.1, 0.6)),
    ),
    "half-reply-then-silence": (
        "falls silent in the middle of some replies",
        lambda rng: byte_troubles.HalfThenSilence(rng, rng.uniform(0.1, 0.4)),
    ),
    "reply-lost": (
        "forwards requests and loses some replies",
        lambda rng: byte_troubles.LostReply(rng, rng.uniform(0.1, 0.6)),
    ),
}


def on_link(link: str, trouble: str) -> Callable[[Cluster, random.Random], Awaitable[int]]:
    """The fault that a link has a trouble for 0.3 to 2.5 seconds."""

    async def inflict(cluster: Cluster, rng: random.Random) -> int:
        _, make = TROUBLES[trouble]
        async with cluster.links[link].suffering(make(rng)) as imposed:
            await asyncio.sleep(rng.uniform(0.3, 2.5))
        return imposed.hits

    return inflict
