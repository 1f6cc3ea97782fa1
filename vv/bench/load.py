"""The load: ``wrk`` as a child process, and what it says at its end."""

import asyncio
import contextlib
import json
import os
import resource
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vv import process
from vv.bench import latency
from vv.errors import Unavailable

# wrk counts a reply that takes longer as an error; our own server answers within ten seconds whatever happens.
_REPLY_WITHIN_S = 30
# In an open loop: before the first order is due, and after the last one.
_CONNECTED_WITHIN_S = 1
_DRAINED_WITHIN_S = 2


@dataclass(frozen=True)
class Orders:
    """What is ordered, in the words of ``orders.lua``.

    :param run: begins every idempotency key, so that no other run has it
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
    """What came of a load.

    :param replies: how many orders were answered, errors included
    :param seconds: how long orders were sent
    :param errors: how many of which kind; only kinds that there were
    :param latencies: microseconds to a reply -> how often
    :param cpu_s: what wrk itself needed
    :param planned: how many orders were due, in an open loop
    :param lateness: microseconds between when an order was due and when it was sent -> how often
    """

    replies: int
    seconds: float
    errors: Mapping[str, int]
    latencies: Counter[int]
    cpu_s: float
    planned: int | None = None
    lateness: Counter[int] = field(default_factory=Counter)


class Wrk:
    """Runs wrk, on a leash, for the data folder ``folder``.

    :param program: where wrk is
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder

    async def run(
        self, url: str, orders: Orders, *, connections: int, seconds: int, rate: float | None = None
    ) -> Result:
        """Post orders over ``connections``, each of which sends the next one when it has the reply.

        With a ``rate``, so many orders a second on the average, at random, whether there are replies or not.
        Raises Unavailable when wrk fails.
        """
        duration = seconds if rate is None else seconds + _CONNECTED_WITHIN_S + _DRAINED_WITHIN_S
        command = [
            *(str(self._program), "-t1", f"-c{connections}", f"-d{duration}s", f"--timeout={_REPLY_WITHIN_S}s"),
            *("-s", str(Path(__file__).with_name("orders.lua" if rate is None else "open.lua")), url, "--"),
            *(orders.run, orders.sku, str(orders.skus), str(orders.lines)),
            *(() if rate is None else (str(rate), str(seconds), str(_CONNECTED_WITHIN_S))),
        ]
        before = _children_cpu_s()
        said = _summary_in(await self._output_of(command))
        result = _result(said, connections, _children_cpu_s() - before)
        return result if rate is None else replace(result, seconds=float(seconds))

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
            # Whatever the mistake, it explains its options, too.
            said = text.partition("Usage:")[0].strip()
            raise Unavailable(f"wrk could not make the load ({ended}). It said:\n{said}")
        return text


def _summary_in(output: str) -> dict[str, Any]:
    """Raises Unavailable when the script of the load failed."""
    line = next((line for line in output.splitlines() if line.startswith('{"requests"')), None)
    if line is None:
        raise Unavailable(f"wrk did not say how the load went. It said:\n{output.strip()}")
    said: dict[str, Any] = json.loads(line)
    return said


def _result(said: Mapping[str, Any], connections: int, cpu_s: float) -> Result:
    return Result(
        replies=said["requests"],
        seconds=said["duration_us"] / 1e6,
        errors={kind: count for kind, count in said["errors"].items() if count},
        latencies=latency.uncorrected(
            latency.histogram(said["latencies"]), said["requests"], connections, said["duration_us"]
        ),
        cpu_s=cpu_s,
        planned=said.get("planned"),
        lateness=latency.histogram(said.get("lateness", [])),
    )


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
