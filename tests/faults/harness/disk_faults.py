"""The data folder of the database is full for a while."""

import asyncio
import random
import re
import time
from pathlib import Path

from tests.faults.harness.cluster import Cluster
from vv.databases import SERVICES

# The table is full; the disk is; a file could not be written.
_REFUSED = re.compile(rb'"errno": (1114|1021|1026|3)[,}]')
_LASTS_S_MAX = 20.0


async def data_folder_full(cluster: Cluster, rng: random.Random) -> int:
    """Full until a while after the first transaction is refused for it, and for 20 s at the most; counts refusals.

    InnoDB asks for room an extent at a time, so it may take a moment until anybody notices.
    """
    logs = {cluster.folder / "logs" / f"{service}.log": 0 for service in SERVICES}
    logs = {log: log.stat().st_size for log in logs}
    deadline = time.monotonic() + _LASTS_S_MAX
    await asyncio.to_thread(cluster.disk.fill)
    try:
        while time.monotonic() < deadline and not _refused(logs):
            await asyncio.sleep(0.1)
        await asyncio.sleep(rng.uniform(0.2, 1))
    finally:
        cluster.disk.free()
    return _refused(logs)


def _refused(logs: dict[Path, int]) -> int:
    return sum(len(_REFUSED.findall(log.read_bytes()[start:])) for log, start in logs.items())
