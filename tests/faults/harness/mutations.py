"""Safety mechanisms that are taken away, one at a time, to see whether the harness notices; see ``mutations.toml``."""

import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.faults.harness.campaign import CHECKOUT, HARNESS_FAILED, play_apart
from tests.faults.harness.nemesis import NONE
from tests.faults.harness.plan import Plan
from tests.faults.harness.result import Result

_PACKAGES = ("common", "inventory_service", "migrations", "order_service", "payment_service", "tests", "vv")
# Not every run comes across the race that a mechanism is there for; of one that no run can notice one is enough.
RUNS_AT_MOST = 3


@dataclass(frozen=True)
class Edit:
    """``old`` occurs exactly once in ``file``."""

    file: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Edit the file below ``root``. Raises AssertionError when it is not as expected."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        assert text.count(self.old) == 1, f"{self.file} has {text.count(self.old)} times: {self.old}"
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Mutation:
    """A mechanism that is taken away.

    :param needed_because: what goes wrong without it
    :param faults: those that make it go wrong; ``NONE`` where buyers alone do
    :param unnoticed_because: why no run can notice; None for one that must be noticed
    """

    name: str
    needed_because: str
    edits: tuple[Edit, ...]
    faults: tuple[str, ...] = NONE
    profile: str = "usual"
    seconds: float = 15.0
    unnoticed_because: str | None = None

    @property
    def runs_at_most(self) -> int:
        return RUNS_AT_MOST if self.unnoticed_because is None else 1

    def plan(self, seed: int) -> Plan:
        """The run that must notice."""
        return Plan(seed, seconds=self.seconds, buyers=64, per_second=150, faults=self.faults, profile=self.profile)


def load() -> dict[str, Mutation]:
    """The table, by name."""
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {row["name"]: _mutation(row) for row in table["mutation"]}


def _mutation(row: dict[str, Any]) -> Mutation:
    edits = tuple(Edit(**edit) for edit in row["edits"])
    return Mutation(**row | {"edits": edits, "faults": tuple(row.get("faults", NONE))})


MUTATIONS = load()


@dataclass(frozen=True)
class Trial:
    """What the runs without a mechanism found; the last one is the one that noticed, if any did."""

    mutation: Mutation
    runs: tuple[Result, ...]

    @property
    def is_caught(self) -> bool:
        return any(one.invariant != HARNESS_FAILED for one in self.runs[-1].violations)

    @property
    def is_as_expected(self) -> bool:
        return self.is_caught or self.mutation.unnoticed_because is not None


def try_without(mutation: Mutation, seed: int) -> Trial:
    """Run without the mechanism, with one seed after the other, until a run notices. Blocks."""
    runs: list[Result] = []
    with mutated(mutation) as copy:
        while len(runs) < mutation.runs_at_most and (not runs or runs[-1].is_clean):
            result = play_apart(mutation.plan(seed + len(runs)), copy)
            if result.folder is not None:
                shutil.rmtree(result.folder, ignore_errors=True)
            runs.append(result)
    return Trial(mutation, tuple(runs))


@contextmanager
def mutated(mutation: Mutation) -> Iterator[Path]:
    """A copy of the packages without the mechanism; the harness itself runs from it, too."""
    with TemporaryDirectory(prefix="vv-mutation-") as folder:
        copy = Path(folder)
        for package in _PACKAGES:
            shutil.copytree(CHECKOUT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        for edit in mutation.edits:
            edit.apply(copy)
        yield copy
