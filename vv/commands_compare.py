"""``vv compare``."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vv.bench import comparison
from vv.errors import Refused, Unavailable
from vv.output import json_option, say_aside, show

_DEFAULT = ("hot_64_on", "spread_256_on", "hot_256_on", "floor_256", "carts_64_on")
# What `vv bench` ends with that has run: with a result for each run, or not for each.
_RAN = (0, 1)


@click.command("compare")
@click.argument("base", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--head",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="The checkout to compare with it.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="In each, both once.")
@click.option("--seconds", type=click.IntRange(1), default=10, show_default=True, help="Of a run, less its warm-up.")
@click.option(
    "--only",
    multiple=True,
    default=_DEFAULT,
    show_default=True,
    metavar="NAME",
    help="Only this measurement of vv bench (* is anything); repeatable.",
)
@click.option(
    "--least-ratio",
    type=click.FloatRange(0, min_open=True),
    default=0.85,
    show_default=True,
    help="Refuse a head with fewer orders a second than this share of the base's, if no round says otherwise.",
)
@json_option
def compare_command(
    base: Path, head: Path, rounds: int, seconds: int, only: Sequence[str], least_ratio: float, as_json: bool
) -> None:
    """Measure two checkouts in turns on this machine, BASE and another one, and compare them.

    Each is a checkout in which `make setup` was run, and is measured by its own `vv bench`, one round at a time, the
    one first in one round and the other in the next. What is compared is of the same round. floor_* is the empty
    handler, which is the same in both: what it differs by is noise.

    Exit code: 0 head is as fast, 1 it is slower or a run gave no result, 2 wrong usage, 3 it could not be measured.
    """
    checkouts = {"base": base, "head": head}
    documents = []
    for number in range(1, rounds + 1):
        found = {}
        for version in ("base", "head") if number % 2 else ("head", "base"):
            say_aside(f"Round {number} of {rounds}: {version}.")
            found[version] = _measured(checkouts[version], seconds, only)
        documents.append((found["base"], found["head"]))
    results = comparison.compared(documents)
    nothing = comparison.no_results(documents)
    short = comparison.slower(results, least_ratio)
    document = {
        "machine": documents[0][1]["machine"],
        "measurements": [one.document() for one in results],
        "slower": short,
        "no_results": nothing,
    }
    show(document, [*comparison.markdown(results, least_ratio), *(f"\n{line}" for line in nothing)], as_json=as_json)
    if short:
        raise Refused(f"Slower than the base: {', '.join(short)}.")
    if nothing:
        raise Refused("Not every run gave a result.")


def _measured(checkout: Path, seconds: int, only: Sequence[str]) -> dict[str, Any]:
    """The document of a round of a checkout. Raises Unavailable."""
    program = checkout.absolute() / ".venv" / "bin" / "vv"
    if not program.exists():
        raise Unavailable(f"There is no {program}: run `make setup` in {checkout} first.")
    measurements = [argument for name in only for argument in ("--only", name)]
    ended = subprocess.run(
        [program, "bench", "--json", "--rounds", "1", "--seconds", str(seconds), *measurements],
        cwd=checkout,
        # Each measures its own code.
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode not in _RAN:
        raise Unavailable(f"vv bench of {checkout} ended with {ended.returncode}.")
    document: dict[str, Any] = json.loads(ended.stdout)
    return document
