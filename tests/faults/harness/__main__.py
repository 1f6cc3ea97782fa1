"""``python -m tests.faults.harness``."""

import random
import shlex
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.faults.harness import report
from tests.faults.harness.campaign import CHECKOUT, play_apart
from tests.faults.harness.faults import FAULTS
from tests.faults.harness.mutations import MUTATIONS, Trial, try_without
from tests.faults.harness.nemesis import NONE
from tests.faults.harness.plan import Plan
from tests.faults.harness.result import Result
from tests.faults.harness.run import run
from tests.faults.harness.shop import PROFILES

PAGE = CHECKOUT / "docs" / "reliability.md"


@click.command()
@click.option("--seed", type=int, help="The seed of one run; a fresh one if neither it nor --seeds is given.")
@click.option("--seeds", help="Several runs, one after the other: 1-20, or 3,7,11.")
@click.option("--seconds", default=60.0, show_default=True, help="How long faults are inflicted, in each run.")
@click.option("--buyers", default=256, show_default=True, help="How many shop at once.")
@click.option("--per-second", default=200.0, show_default=True, help="Visits that begin each second, at the most.")
@click.option(
    "--profile", type=click.Choice(list(PROFILES)), default="usual", show_default=True, help="What buyers do."
)
@click.option(
    "--only", "faults", multiple=True, type=click.Choice([*FAULTS, *NONE]), metavar="FAULT", help="Only this fault."
)
@click.option(
    "--mutation",
    "mutations",
    multiple=True,
    type=click.Choice(list(MUTATIONS)),
    metavar="NAME",
    help="Take this safety mechanism away; the harness must notice.",
)
@click.option("--mutations", "all_mutations", is_flag=True, help="Take all of them away, one after the other.")
@click.option("--write", is_flag=True, help="Write the report into docs/reliability.md.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the run keeps its files; for one seed.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write what was found to this file, too.")
def main(
    seed: int | None,
    seeds: str | None,
    seconds: float,
    buyers: int,
    per_second: float,
    profile: str,
    faults: tuple[str, ...],
    mutations: tuple[str, ...],
    all_mutations: bool,
    write: bool,
    folder: Path | None,
    json_path: Path | None,
) -> None:
    """Let faults loose on a real stack while buyers shop, and check every promise.

    Exit code: 0 nothing found, 1 a promise was broken, 2 wrong usage, 3 the harness itself failed.
    """
    first = Plan(seed if seed is not None else random.SystemRandom().randint(1, 999_999))
    plan = replace(first, seconds=seconds, buyers=buyers, per_second=per_second, faults=faults, profile=profile)
    console = Console(stderr=True)
    if all_mutations or mutations:
        trials = _try_without(mutations or tuple(MUTATIONS), first.seed, console)
        console.print(report.caught(trials), highlight=False)
        if write:
            report.write_trials(PAGE, trials, _typed())
        raise SystemExit(0 if all(trial.is_as_expected for trial in trials) else 1)
    if seeds is None:
        results = [_one(plan, folder, console)]
    else:
        results = _many([replace(plan, seed=each) for each in _numbers(seeds)], console)
    report.show(results, console)
    if json_path is not None:
        results[0].save(json_path)
    if write:
        report.write(PAGE, results, _typed())
    if not all(result.is_clean for result in results):
        raise SystemExit(1)


def _one(plan: Plan, folder: Path | None, console: Console) -> Result:
    """In this process, where it can be watched and interrupted."""
    console.print(f"Seed {plan.seed}. Again: {plan.command}", highlight=False, soft_wrap=True)
    home = folder or Path(tempfile.mkdtemp(prefix=f"vv-faults-{plan.seed}-"))
    home.mkdir(parents=True, exist_ok=True)
    with console.status("starting") as status:
        result = run(plan, home, status.update)
    if result.is_clean:
        shutil.rmtree(home, ignore_errors=True)
    else:
        result.folder = str(home)
        result.save(home / "result.json")
    return result


def _many(plans: list[Plan], console: Console) -> list[Result]:
    results = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("seeds", total=len(plans))
        for plan in plans:
            results.append(result := play_apart(plan))
            faults, orders = sum(result.hit.values()), result.orders
            found = "clean" if result.is_clean else f"{len(result.violations)} VIOLATIONS; again: {result.command}"
            console.print(f"seed {plan.seed}: {orders} orders, {faults} faults, {found}", highlight=False)
            progress.advance(task)
    return results


def _try_without(names: tuple[str, ...], seed: int, console: Console) -> list[Trial]:
    trials = []
    for name in names:
        trials.append(trial := try_without(MUTATIONS[name], seed))
        console.print(report.verdict(trial), highlight=False, markup=False, soft_wrap=True)
    return trials


def _typed() -> str:
    return shlex.join(["python", "-m", "tests.faults.harness", *sys.argv[1:]])


def _numbers(text: str) -> list[int]:
    """``1-3,7`` as 1, 2, 3, 7. Raises click.BadParameter."""
    try:
        spans = [[int(end) for end in part.split("-")] for part in text.split(",")]
        return [number for span in spans for number in range(span[0], span[-1] + 1)]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not like 1-20 or 3,7,11", param_hint="--seeds") from None


if __name__ == "__main__":
    main()
