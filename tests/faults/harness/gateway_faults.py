"""Faults of the payment gateway itself: slow, down, or failing after it has charged."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.faults.harness.cluster import USUAL_BEHAVIOUR, Cluster
from tests.faults.harness.metrics import Labels, total

Inflict = Callable[[Cluster, random.Random], Awaitable[int]]


@dataclass(frozen=True)
class Misbehaviour:
    """What the gateway does, how it is told to, and how the answers begin of the calls that this hits."""

    description: str
    behaviour: Callable[[random.Random], dict[str, Any]]
    statuses: str


MISBEHAVIOURS: Mapping[str, Misbehaviour] = {
    "slow": Misbehaviour("is slow", lambda rng: {"latency_s": rng.uniform(0.2, 1.5)}, "2"),
    "down": Misbehaviour("answers 503 and does nothing", lambda _: {"unavailable": True}, "503"),
    "500-after-charging": Misbehaviour(
        "answers 500 after it has charged", lambda rng: {"error_after_charging": rng.uniform(0.3, 1)}, "500"
    ),
}


def misbehaves(how: str) -> Inflict:
    """The gateway behaves like that for 0.5 to 3 seconds; counts the charges that it answered in that manner."""

    async def inflict(cluster: Cluster, rng: random.Random) -> int:
        made = MISBEHAVIOURS[how]
        before = await _answered(cluster, made.statuses)
        async with aiohttp.ClientSession(cluster.gateway_url, timeout=aiohttp.ClientTimeout(total=5)) as gateway:
            await _behave(gateway, made.behaviour(rng))
            try:
                await asyncio.sleep(rng.uniform(0.5, 3))
                return await _answered(cluster, made.statuses) - before
            finally:
                await _behave(gateway, USUAL_BEHAVIOUR)

    return inflict


async def _answered(cluster: Cluster, statuses: str) -> int:
    def is_meant(labels: Labels) -> bool:
        return labels["route"] == "/charges" and labels["status"].startswith(statuses)

    return await total(cluster.gateway_url, "vv_http_requests_total", is_meant)


async def _behave(gateway: aiohttp.ClientSession, behaviour: Mapping[str, Any]) -> None:
    async with gateway.put("/behaviour", json=behaviour) as reply:
        assert reply.status == 200, await reply.text()
