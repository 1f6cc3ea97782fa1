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
from vv.audit import Violation

# In place of the names of faults: nothing is to go wrong.
NONE = ("none",)
# How many faults there are at once: one, two or three, by weight.
_AT_ONCE = ((1, 2, 3), (6, 3, 1))
_PAUSE_S = (0.1, 1.0)


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

    async def rage(self, seconds: float) -> list[Violation]:
        """Go on for so many seconds; the last faults are healed when this returns. What did not come back by itself."""
        chance = random.Random(f"{self.seed}:nemesis")
        until = time.monotonic() + seconds
        round_ = 0
        while time.monotonic() < until:
            round_ += 1
            chosen = chance.sample(self.faults, min(len(self.faults), chance.choices(*_AT_ONCE)[0]))
            await asyncio.gather(*(self._inflict(fault, f"{self.seed}:{round_}:{fault.name}") for fault in chosen))
            await asyncio.sleep(chance.uniform(*_PAUSE_S))
        return self._violations

    async def _inflict(self, fault: Fault, dice: str) -> None:
        began_at = time.time()
        hits = 0
        try:
            hits = await fault.inflict(self.cluster, random.Random(dice))
        except (MySQLError, OSError, aiohttp.ClientError):
            # Of mixed faults one may keep the other from being made.
            hits = 0
        except AssertionError as error:
            self._violations.append(Violation("the_stack_comes_back", fault.name, str(error), dice))
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
