"""The whole benchmark: rounds, in each of which everything is measured once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vv.bench.load import Wrk
from vv.bench.plan import FLOOR, PEAK_OF, Measurement, turns
from vv.bench.runs import Run, make_run, merged, no_run
from vv.bench.stacks import Stacks
from vv.bench.targets import Floor, OwnStack, Target


@dataclass(frozen=True)
class Step:
    """What is about to be done, for whoever watches."""

    round: int
    measurement: str


class Rounds:
    """Makes the runs of a benchmark, against stacks that are up, and keeps them in ``runs``.

    :param seconds: how long the load of a run lasts, its warm-up not counted
    :param begins: is told each step before it is taken
    :param ends: gets each run when it is made
    """

    def __init__(
        self,
        stacks: Stacks,
        wrk: Wrk,
        measurements: Sequence[Measurement],
        *,
        rounds: int,
        seconds: int,
        begins: Callable[[Step], None],
        ends: Callable[[Run], None],
    ) -> None:
        self._stacks = stacks
        self._wrk = wrk
        self._measurements = measurements
        self._rounds = rounds
        self._seconds = seconds
        self._begins = begins
        self._ends = ends
        self.runs: list[Run] = []

    async def make(self) -> None:
        """Raises Unavailable."""
        for number in range(1, self._rounds + 1):
            # Backwards every second time: a run leaves the database something to clear away during the next one.
            for block in turns(self._measurements)[:: 1 if number % 2 else -1]:
                for run in await self._make_block(block, number):
                    self.runs.append(run)
                    self._ends(run)

    async def _make_block(self, block: Sequence[Measurement], number: int) -> list[Run]:
        slices = min(block[0].slices, self._seconds)
        made: dict[str, list[Run]] = {one.name: [] for one in block}
        for part in range(slices):
            # In turns, too: who comes second finds the machine as the first one left it.
            for one in block[:: 1 if (number + part) % 2 else -1]:
                self._begins(Step(number, one.name))
                made[one.name].append(await self._make(one, number, self._seconds // slices))
        return [merged(parts) for parts in made.values()]

    async def _make(self, one: Measurement, number: int, seconds: int) -> Run:
        rate = one.of_peak * self._peak() if one.of_peak else None
        if rate == 0:
            return no_run(one, number, "no run so far has shown a peak to take a share of")
        return await make_run(self._target(one.server), self._wrk, one, number=number, seconds=seconds, rate=rate)

    def _target(self, server: str) -> Target:
        return Floor(self._stacks) if server == FLOOR else OwnStack(self._stacks, server)

    def _peak(self) -> float:
        """The best throughput so far, 0 when there is none."""
        results = (run for run in self.runs if run.no_result is None)
        return max((run.per_second for run in results if run.measurement in PEAK_OF), default=0)
