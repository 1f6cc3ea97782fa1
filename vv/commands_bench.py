"""``vv bench``."""

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from common.server import raise_open_files_limit
from vv import mariadb_program
from vv.bench import document, fill, machine, plan, report, rounds, stacks, wrk_program
from vv.bench.load import Wrk
from vv.bench.plan import Measurement
from vv.bench.report import Report
from vv.bench.runs import Run, make_run
from vv.bench.targets import Elsewhere, OwnStack
from vv.errors import Refused, Unavailable
from vv.foreground import while_up
from vv.output import json_option, say_aside
from vv.stack import PORT_OFFSET_MAX


def _http_url(_: click.Context, option: click.Parameter, url: str | None) -> str | None:
    if url is not None and not url.startswith(("http://", "https://")):
        raise click.BadParameter("it begins with http:// or https://.", param=option)
    return url


_NAMES = ", ".join(one.name for one in plan.MEASUREMENTS)


@click.command(epilog=f"The measurements: {_NAMES}.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=".data/bench",
    show_default=True,
    help="Where each stack has a data folder of its own, which is emptied first.",
)
@click.option(
    "--port-offset",
    type=click.IntRange(0, PORT_OFFSET_MAX - stacks.PORT_STEP * len(plan.STACKS)),
    default=2_000,
    show_default=True,
    help="What to add to the ports of the first stack; each further one has ten more.",
)
@click.option("--rounds", "count", type=click.IntRange(1), default=4, show_default=True, help="In each, all once.")
@click.option("--seconds", type=click.IntRange(1), default=10, show_default=True, help="Of a run, less its warm-up.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this measurement (* is anything); repeatable.")
@click.option("--orders", type=click.IntRange(1), help="Finished orders in the tables of a further stack, full.")
@click.option("--keep", is_flag=True, help="Keep the data folders and the logs; a full one is used again.")
@click.option(
    "--write",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put the results into this page, between its markers, and a chart next to it.",
)
@click.option("--url", callback=_http_url, help="Put a load on this order service, not on stacks of our own.")
@click.option(
    "--inventory-url", callback=_http_url, help="With --url: create the stock there, and compare it with what was sold."
)
@click.option("--sku", help="With --url: order this SKU, which has stock enough.")
@click.option("--clients", type=click.IntRange(1), default=64, show_default=True, help="With --url: how many at once.")
@json_option
def bench(
    data_dir: Path,
    port_offset: int,
    count: int,
    seconds: int,
    only: tuple[str, ...],
    orders: int | None,
    keep: bool,
    write: Path | None,
    url: str | None,
    inventory_url: str | None,
    sku: str | None,
    clients: int,
    as_json: bool,
) -> None:
    """Measure orders a second, latencies, CPU and memory, with the books audited after every run.

    Starts stacks of its own side by side: on (as it comes), off (without group commit), gateway (one that takes half a
    second) and, with --orders, full. Each is idle while another is measured. Everything is measured once a round, by
    wrk, for which the Debian package is installed if there is none and we may. A run of which an order failed, or the
    books of which do not add up, is no result. Variables that start with ORDER_, INVENTORY_ or PAYMENT_ are passed on
    to the services, and reported.

    With --url nothing is started: the load goes to any server that speaks the contract of the order service.

    Exit code: 0 every run gave a result, 1 some gave none, 2 wrong usage, 3 the benchmark could not be made.
    """
    raise_open_files_limit()
    if write is not None:
        # Now, and not after a quarter of an hour.
        document.around_the_results(write)
    wrk = Wrk(wrk_program.find_or_install(say_aside), data_dir.absolute())
    if url is not None:
        _check_usage(inventory_url, sku, bool(only or orders or keep or write))
        found = _bench_elsewhere(wrk, Elsewhere(url, inventory_url), sku, clients, count, seconds)
    else:
        wanted = _selected(only, orders)
        servers = stacks.Stacks(data_dir, port_offset, [one.server for one in wanted], os.environ, say_aside)
        mariadb_program.find_or_install(say_aside)
        with _folders(servers, orders, keep) as filled:
            found = _bench_own(servers, wrk, wanted, count, seconds, filled)
    _show(found, as_json=as_json)
    if write is not None:
        document.write(write, found)
    if found.no_results:
        raise Refused("Not every run gave a result.")


def _check_usage(inventory_url: str | None, sku: str | None, own: bool) -> None:
    if (inventory_url is None) == (sku is None):
        raise click.UsageError(
            "With --url give either --inventory-url, to create stock, or --sku, to use what there is."
        )
    if own:
        raise click.UsageError("--only, --orders, --keep and --write are about stacks of our own, not for --url.")


def _selected(only: Sequence[str], orders: int | None) -> list[Measurement]:
    found = [one for one in plan.select(only or ["*"]) if orders is not None or one.server != plan.FULL]
    if not found:
        hint = " (those of full tables need --orders)" if plan.select(only) else f". There are: {_NAMES}"
        raise click.UsageError(f"No measurement is called {' or '.join(only)}{hint}.")
    return found


@contextmanager
def _folders(servers: stacks.Stacks, orders: int | None, keep: bool) -> Iterator[int | None]:
    """The data folders of the stacks, empty, or full for the one that is to be; gives how many orders that one has."""
    full = servers.stacks.get(plan.FULL)
    folders = [stack.data_dir for stack in servers.stacks.values()]
    for folder in folders:
        if full is None or folder != full.data_dir:
            stacks.wipe(folder, say_aside)
    try:
        yield _filled(full.data_dir, orders) if full is not None and orders is not None else None
    finally:
        if not keep:
            for folder in folders:
                stacks.wipe(folder, say_aside)
            (servers.folder / "floor.log").unlink(missing_ok=True)


def _filled(data_dir: Path, orders: int) -> int:
    with _progress("Filling the tables") as (progress, task):
        # Each of the three services has rows of its own.
        progress.update(task, total=3 * orders)
        return fill.prepare(data_dir, orders, say_aside, lambda count: progress.advance(task, count))


def _bench_own(
    servers: stacks.Stacks, wrk: Wrk, wanted: Sequence[Measurement], count: int, seconds: int, filled: int | None
) -> Report:
    with _progress("Starting") as (progress, task):
        progress.update(task, total=count * len(wanted))

        def begins(step: rounds.Step) -> None:
            progress.update(task, description=f"Round {step.round}: {step.measurement}")

        def ends(run: Run) -> None:
            progress.advance(task)
            _say_run(run, progress)

        making = rounds.Rounds(servers, wrk, wanted, rounds=count, seconds=seconds, begins=begins, ends=ends)
        finished = asyncio.run(while_up(servers, making.make))
    if not finished:
        raise Unavailable("The benchmark was interrupted.")
    return _report(making.runs, OwnStack.checked, stacks.settings_of(os.environ), filled, servers.event_loop)


def _bench_elsewhere(wrk: Wrk, target: Elsewhere, sku: str | None, clients: int, count: int, seconds: int) -> Report:
    one = Measurement(f"hot_{clients}", target.url, clients)
    runs = []
    with _progress(one.name) as (progress, task):
        progress.update(task, total=count)
        for number in range(1, count + 1):
            making = make_run(target, wrk, one, number=number, seconds=seconds, rate=None, sku=sku)
            try:
                runs.append(asyncio.run(making))
            except KeyboardInterrupt:
                raise Unavailable("The benchmark was interrupted.") from None
            progress.advance(task)
            _say_run(runs[-1], progress)
    return _report(runs, target.checked, {}, None, None)


def _report(
    runs: Sequence[Run], checked: str, settings: dict[str, str], filled: int | None, event_loop: str | None
) -> Report:
    command = shlex.join(["vv", *sys.argv[1:]])
    return Report(runs, checked, command, machine.describe(event_loop), settings, filled)


@contextmanager
def _progress(description: str) -> Iterator[tuple[Progress, TaskID]]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn rarely: it takes CPU that is there for the servers.
    with Progress(*columns, console=console, disable=not console.is_terminal, refresh_per_second=1) as progress:
        yield progress, progress.add_task(description, total=None)


def _say_run(run: Run, progress: Progress) -> None:
    if progress.disable:
        result = f"{run.per_second:,.0f} a second, p99 {run.latency_ms['p99']:.1f} ms"
        say_aside(f"Round {run.round}: {run.measurement}: {result if run.no_result is None else 'no result'}.")


def _show(found: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found.document(), indent=2, ensure_ascii=False, default=str))
    else:
        # Piped into a file, a line is as long as it needs to be.
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(report.table(report.RUNS, report.runs_grid(found.runs)))
        if any(run.memory_mb for run in found.runs):
            console.print(report.table(report.PROCESSES, report.processes_grid(found.runs)))
        if found.values:
            console.print(report.table(report.FIGURES, report.figures_grid(found.values)))
        console.print(found.checked)
    for line in found.no_results:
        say_aside(line)
