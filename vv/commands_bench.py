"""``vv bench``."""

import asyncio
import os
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from common.server import raise_open_files_limit
from vv.bench import figures, plan, report, stacks, wrk_program
from vv.bench.load import Wrk
from vv.bench.runs import Bench, Run
from vv.errors import Refused, Unavailable
from vv.foreground import while_up
from vv.output import json_option, say_aside
from vv.stack import PORT_OFFSET_MAX


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=".data/bench",
    show_default=True,
    help="Where the stacks have a data folder each; these are wiped first.",
)
@click.option(
    "--port-offset",
    type=click.IntRange(0, PORT_OFFSET_MAX - stacks.PORT_STEP * len(plan.STACKS)),
    default=2_000,
    show_default=True,
    help="What to add to the ports of the first stack; each further stack has ten more.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often each measurement is made."
)
@click.option(
    "--seconds", type=click.IntRange(1), default=10, show_default=True, help="Of each run, after one to warm up."
)
@click.option("--only", multiple=True, metavar="NAME", help="Only this measurement; * stands for anything. Repeatable.")
@click.option("--keep", is_flag=True, help="Keep the data folders, with the logs, at the end.")
@json_option
def bench(
    data_dir: Path, port_offset: int, rounds: int, seconds: int, only: tuple[str, ...], keep: bool, as_json: bool
) -> None:
    """Measure orders a second and latencies, with the books audited after every run.

    Exit code: 0 every run gave a result, 1 some did not add up, 2 wrong usage, 3 the benchmark could not be held.
    """
    raise_open_files_limit()
    wanted = plan.select(only or ["*"])
    wanted = [one for one in wanted if one.server != "full"]
    if not wanted:
        names = ", ".join(one.name for one in plan.MEASUREMENTS)
        raise click.UsageError(f"No measurement is called {' or '.join(only)}. There are: {names}.")
    program = wrk_program.find_or_install(say_aside)
    servers = stacks.Stacks(data_dir, port_offset, [one.server for one in wanted], os.environ, say_aside)
    _wipe(servers)
    runs: list[Run] = []
    try:
        finished = asyncio.run(_bench(servers, Wrk(program, data_dir.absolute()), wanted, rounds, seconds, runs))
    finally:
        if not keep:
            _wipe(servers)
    if not finished:
        raise Unavailable("The benchmark was interrupted.")
    values = figures.values(runs)
    if as_json:
        click.echo(__import__("json").dumps(report.document(runs, values), indent=2, default=str))
    else:
        console = Console(width=None if Console().is_terminal else 200)
        console.print(report.runs_table(runs))
        console.print(report.figures_table(values))
    for line in report.no_results(runs):
        say_aside(line)
    if any(run.no_result is not None for run in runs):
        raise Refused("Some runs gave no result.")


def _wipe(servers: stacks.Stacks) -> None:
    for stack in servers.stacks.values():
        stacks.wipe(stack.data_dir, say_aside)


async def _bench(
    servers: stacks.Stacks, wrk: Wrk, wanted: list[plan.Measurement], rounds: int, seconds: int, runs: list[Run]
) -> bool:
    measuring = Bench(servers, wrk, seconds)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())

    async def work() -> None:
        # Drawing takes CPU that is not there for the servers.
        with Progress(*columns, console=console, disable=not console.is_terminal, refresh_per_second=1) as progress:
            task = progress.add_task("", total=rounds * len(wanted))
            for number in range(1, rounds + 1):
                for one in wanted:
                    progress.update(task, description=f"round {number}: {one.name}")
                    run = await measuring.run(one, number)
                    runs.append(run)
                    progress.advance(task)
                    if not console.is_terminal:
                        say_aside(_line(run, rounds))

    return await while_up(servers, work)


def _line(run: Run, rounds: int) -> str:
    what = f"{run.per_second:,.0f}/s, p99 {run.latency_ms['p99']:.1f} ms" if run.no_result is None else run.no_result
    return f"round {run.round} of {rounds}: {run.measurement}: {what}"
