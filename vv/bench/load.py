"""The load: ``wrk`` as a child process, and what it says at its end."""

import asyncio
import contextlib
import json
import os
import resource
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vv import process
from vv.bench import latency
from vv.errors import Unavailable

# wrk counts a reply that takes longer as an error; our own server answers within ten seconds whatever happens.
_REPLY_WITHIN_S = 30


@dataclass(frozen=True)
class Orders:
    """What is ordered, in the words of ``orders.lua``.

    :param run: begins every user id and idempotency key
    :param sku: the SKU, or, if ``skus`` > 1, what the names of the SKUs begin with
    :param lines: different SKUs in a cart
    """

    run: str
    sku: str
    skus: int = 1
    lines: int = 1

    @property
    def sku_names(self) -> list[str]:
        return [self.sku] if self.skus == 1 else [f"{self.sku}-{n:04d}" for n in range(self.skus)]


@dataclass(frozen=True)
class Result:
    """What came of a load. ``latencies`` is a histogram in microseconds, ``cpu_s`` what wrk itself needed."""

    replies: int
    seconds: float
    errors: Mapping[str, int]
    latencies: Counter[int]
    cpu_s: float

    @property
    def per_second(self) -> float:
        return self.replies / self.seconds


class Wrk:
    """Runs wrk, on a leash, for the data folder ``folder``.

    :param program: where wrk is
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder

    async def run(self, url: str, orders: Orders, *, connections: int, seconds: int) -> Result:
        """Post orders over ``connections``, each of which sends the next one when it has the reply.

        Raises Unavailable when wrk fails.
        """
        command = [
            *(str(self._program), "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={_REPLY_WITHIN_S}s"),
            *("-s", str(Path(__file__).with_name("orders.lua")), url, "--"),
            *(orders.run, orders.sku, str(orders.skus), str(orders.lines)),
        ]
        before = _children_cpu_s()
        output = await self._output_of(command)
        return _read(output, connections, _children_cpu_s() - before)

    async def _output_of(self, command: list[str]) -> str:
        running = await asyncio.create_subprocess_exec(
            *process.leashed(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=process.marked(os.environ, self._folder),
            start_new_session=True,
        )
        try:
            output, _ = await running.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                running.kill()
            await running.wait()
            raise
        text = output.decode("utf-8", "replace")
        if running.returncode != 0:
            ended = process.how_it_ended(running.returncode or 0)
            raise Unavailable(f"wrk could not make the load ({ended}). It said:\n{text.strip()}")
        return text


def _read(output: str, connections: int, cpu_s: float) -> Result:
    """Raises Unavailable when the script of the load failed."""
    line = next((line for line in output.splitlines() if line.startswith('{"requests"')), None)
    if line is None:
        raise Unavailable(f"wrk did not say how the load went. It said:\n{output.strip()}")
    said: dict[str, Any] = json.loads(line)
    pairs = iter(said["histogram"])
    histogram = dict(zip(pairs, pairs, strict=True))
    return Result(
        replies=said["requests"],
        seconds=said["duration_us"] / 1e6,
        errors={kind: count for kind, count in said["errors"].items() if count},
        latencies=latency.uncorrected(histogram, said["requests"], connections, said["duration_us"]),
        cpu_s=cpu_s,
    )


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
