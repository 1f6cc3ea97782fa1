"""Faults of an HTTP link that are about whole requests."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from tests.faults.harness.cluster import Cluster
from tests.faults.harness.http_troubles import Duplicates, HoldBack

Inflict = Callable[[Cluster, random.Random], Awaitable[int]]

_POLL_S = 0.02


@dataclass(frozen=True)
class Held:
    """Which requests of a link are held back, until which other one about the same order has been answered."""

    link: str
    paths: tuple[str, ...]
    undo_paths: tuple[str, ...]
    # Whether nobody undoes it unless the buyer changes his mind.
    is_cancelled: bool
    held_s_max: float


HELD = {
    "decrease": Held(
        "order-inventory",
        ("POST /inventory/decrease", "POST /inventory/decrease/batch"),
        ("POST /inventory/rollback",),
        is_cancelled=True,
        held_s_max=8,
    ),
    "charge": Held(
        "order-payment",
        ("POST /payments", "POST /payments/batch"),
        ("POST /payments/cancel",),
        is_cancelled=True,
        held_s_max=8,
    ),
    "gateway-charge": Held("payment-gateway", ("POST /charges",), ("POST /charges/",), is_cancelled=True, held_s_max=8),
    # It was asked for, and the answer was that there is no such charge.
    "unknown-gateway-charge": Held(
        "payment-gateway", ("POST /charges",), ("GET /charges/",), is_cancelled=False, held_s_max=8
    ),
}


def duplicated(link: str) -> Inflict:
    """Every request arrives twice for 0.5 to 2 seconds."""

    async def inflict(cluster: Cluster, rng: random.Random) -> int:
        async with cluster.links[link].suffering(Duplicates(rng, late_s=0.5)) as trouble:
            await asyncio.sleep(rng.uniform(0.5, 2))
            # For copies that are still on their way.
            await asyncio.sleep(0.1)
        return trouble.hits

    return inflict


def held_back(what: str) -> Inflict:
    """A request is held back until its caller has given up and what it asked for was undone; then it arrives.

    The victim is cancelled on behalf of its buyer, where nothing else would undo it.
    """

    async def inflict(cluster: Cluster, rng: random.Random) -> int:
        held = HELD[what]
        deadline = time.monotonic() + held.held_s_max
        trouble = HoldBack(rng, held.paths, held.undo_paths)
        link = cluster.links[held.link]
        async with link.suffering(trouble):
            await _until(lambda: trouble.victim is not None, min(deadline, time.monotonic() + 3))
            if trouble.victim and held.is_cancelled:
                await asyncio.sleep(rng.uniform(0, 1.5))
                await cancel(cluster, trouble.victim)
            await _until(lambda: bool(trouble.undone) and not trouble.callers_left, deadline)
            await asyncio.sleep(rng.uniform(0, 0.3))
            await link.run(trouble.release())
        return trouble.hits

    return inflict


async def cancel(cluster: Cluster, order_id: str) -> None:
    """Cancel an order as its buyer would, and note that we did."""
    cluster.cancelled.add(order_id)
    timeout = aiohttp.ClientTimeout(total=2)
    async with aiohttp.ClientSession(cluster.direct_url("order"), timeout=timeout) as session:
        try:
            async with session.patch("/orders", json={"order_id": order_id, "status": "cancelled"}) as reply:
                await reply.read()
        except (aiohttp.ClientError, TimeoutError):
            # Whether it took effect nobody knows; it is noted all the same.
            return


async def _until(is_so: Callable[[], bool], deadline: float) -> None:
    while not is_so() and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_S)
