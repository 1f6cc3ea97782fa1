"""What goes wrong and when: faults drawn by a seed, alone and mixed, until the time is over."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
from pymysql.err import MySQLError

from tests.faults.harness.cluster import Cluster
from tests.faults.harness.faults import Fault
from tests.faults.harness.violation import Violation

# In place of the names of faults: nothing is to go wrong.
NONE = ("none",)
# Faults come in streams, with pauses of seconds between them: the first is seldom silent, the others mix theirs in.
_PAUSES_S = ((0.1, 1.0), (0.5, 5.0), (2.0, 10.0))
# A process has one of these at a time.
_OF_A_PROCESS = ("kill-", "stop-", "term-", "clock-")


@dataclass(frozen=True)
class Stroke:
    """One fault as it happened; times are seconds since the epoch, ``hits`` what it truly hit."""

    fault: str
    began_at: float
    ended_at: float
    hits: int


@dataclass
class Nemesis:
    """Inflicts ``faults`` on the cluster; ``strokes`` is what it did."""

    cluster: Cluster
    faults: Sequence[Fault]
    seed: int
    strokes: list[Stroke] = field(default_factory=list)
    _violations: list[Violation] = field(default_factory=list)
    _under_way: set[str] = field(default_factory=set)

    async def rage(self, seconds: float) -> list[Violation]:
        """Go on for so many seconds; the last faults are healed when this returns. What did not come back by itself."""
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._stream(n, pause_s, until) for n, pause_s in enumerate(_PAUSES_S)))
        return self._violations

    async def _stream(self, n: int, pause_s: tuple[float, float], until: float) -> None:
        chance = random.Random(f"{self.seed}:nemesis:{n}")
        while (left_s := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, chance.uniform(*pause_s)))
            fault = chance.choice(self.faults) if self.faults else None
            if fault is not None and not self._is_in_the_way(fault) and time.monotonic() < until:
                await self._inflict(fault, f"{self.seed}:{chance.random()}")

    def _is_in_the_way(self, fault: Fault) -> bool:
        """Whether the same is under way, or another fault of the same process."""
        return fault.name in self._under_way or any(
            fault.name.startswith(_OF_A_PROCESS)
            and other.startswith(_OF_A_PROCESS)
            and _same_process(fault.name, other)
            for other in self._under_way
        )

    async def _inflict(self, fault: Fault, dice: str) -> None:
        began_at = time.time()
        hits = 0
        self._under_way.add(fault.name)
        try:
            hits = await fault.inflict(self.cluster, random.Random(dice))
        except (MySQLError, OSError, aiohttp.ClientError):
            # Of mixed faults one may keep the other from being made.
            hits = 0
        except AssertionError as error:
            # With others about it may be they that keep it from coming back; then its turn is when all is healed.
            if len(self._under_way) == 1:
                self._violations.append(Violation("the_stack_comes_back", fault.name, str(error), dice))
        finally:
            self._under_way.discard(fault.name)
        self.strokes.append(Stroke(fault.name, began_at, time.time(), hits))

    @property
    def hit(self) -> Counter[str]:
        """How many faults of each kind truly hit something."""
        return Counter(stroke.fault for stroke in self.strokes if stroke.hits)

    @property
    def hits(self) -> Counter[str]:
        """How often the faults of each kind hit something."""
        hits: Counter[str] = Counter()
        for stroke in self.strokes:
            hits[stroke.fault] += stroke.hits
        return hits


def _same_process(one: str, other: str) -> bool:
    return one.partition("-")[2] == other.partition("-")[2]
