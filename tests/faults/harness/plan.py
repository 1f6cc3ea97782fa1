"""What a run is: a seed and its options, and the command that plays it again."""

import shlex
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Plan:
    """One run. The same plan draws the same faults and buyers; how they interleave is the machine's.

    :param seconds: how long faults are inflicted
    :param buyers: how many shop at once
    :param per_second: visits that begin each second, at the most
    :param faults: names of the faults to draw from; none for all of them
    :param profile: a name in ``shop.PROFILES``
    """

    seed: int
    seconds: float = 60.0
    buyers: int = 256
    per_second: float = 200.0
    faults: tuple[str, ...] = ()
    profile: str = "usual"

    @property
    def command(self) -> str:
        """What plays it again, to be typed in the checkout."""
        return shlex.join(["python", "-m", "tests.faults.harness", *self.arguments])

    @property
    def arguments(self) -> list[str]:
        usual = Plan(self.seed)
        words = ["--seed", str(self.seed)]
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if field.name in ("seed", "faults") or value == getattr(usual, field.name):
                continue
            number = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{field.name.replace('_', '-')}", number]
        for name in self.faults:
            words += ["--only", name]
        return words
