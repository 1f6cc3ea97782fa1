"""``vv demo``."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from common.errors import ServiceError
from common.server import raise_open_files_limit
from vv import databases, sale, stack_file
from vv.audit.output import report_document, report_lines
from vv.commands_audit import audit_with_progress
from vv.commands_stack import data_dir_option, port_offset_option
from vv.errors import Refused, Unavailable
from vv.foreground import while_up
from vv.output import json_option, say_aside, show
from vv.stack import Stack


@click.command()
@data_dir_option
@port_offset_option
@click.option("--buyers", type=click.IntRange(1, 20_000), default=1_000, show_default=True, help="Who come at once.")
@click.option("--units", type=click.IntRange(0), default=500, show_default=True, help="Stock of the SKU they want.")
@json_option
def demo(data_dir: Path, port_offset: int, buyers: int, units: int, as_json: bool) -> None:
    """Hold a flash sale, and audit the books after it.

    Uses the stack that runs in the data folder, or runs one for the time being. One buyer in ten puts accessories into
    the cart, one card in twenty is declined.

    Exit code: 0 nothing was oversold and nobody was charged twice, 1 something was, 2 wrong usage, 3 the sale could
    not be held.
    """
    raise_open_files_limit()
    asyncio.run(_demo(data_dir, port_offset, sale.Sale(buyers=buyers, units=units), as_json))


async def _demo(data_dir: Path, port_offset: int, wanted: sale.Sale, as_json: bool) -> None:
    async def work() -> None:
        await _hold_and_audit(data_dir, wanted, as_json)

    if stack_file.read(data_dir) is not None:
        await work()
        return
    finished = await while_up(Stack(data_dir, port_offset, say=say_aside), work)
    if not finished:
        raise Unavailable("The demo was interrupted.")


async def _hold_and_audit(data_dir: Path, wanted: sale.Sale, as_json: bool) -> None:
    stack = stack_file.read(data_dir)
    assert stack is not None
    try:
        result = await _hold_with_progress(wanted, stack)
    except ServiceError as error:
        raise Unavailable(f"The sale could not be held: {error.detail}") from error
    with databases.reachable(data_dir, os.environ) as found:
        report = await audit_with_progress(found.service_urls, stack["gateway"], stack_file.tls_of(stack))
    document = _result_document(wanted, result) | {"audit": report_document(report)}
    show(document, [*_result_lines(wanted, result), "", *report_lines(report)], as_json=as_json)
    if not (result.adds_up and report.is_clean):
        raise Refused("The books do not add up.")


async def _hold_with_progress(wanted: sale.Sale, stack: Mapping[str, Any]) -> sale.Result:
    columns = (TextColumn("Flash sale"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("sale", total=wanted.buyers)
        return await sale.hold(wanted, stack, lambda: progress.advance(task), stack_file.tls_of(stack))


def _result_document(wanted: sale.Sale, result: sale.Result) -> dict[str, object]:
    return {
        "buyers": wanted.buyers,
        "units": wanted.units,
        "outcomes": dict(result.outcomes),
        "sold": result.sold,
        "stock_left": result.stock_left,
        "seconds": round(result.seconds, 3),
        "orders_per_second": round(result.orders_per_second, 1),
        "p50_ms": round(result.latency_ms(0.5), 1),
        "p99_ms": round(result.latency_ms(0.99), 1),
        "timeline": result.timeline.model_dump(mode="json") if result.timeline else None,
    }


def _result_lines(wanted: sale.Sale, result: sale.Result) -> list[str]:
    lines = [
        "",
        f"{wanted.buyers} buyers came at once for {wanted.units} units:",
        *(f"  {count:>6}  {outcome}" for outcome, count in result.outcomes.most_common()),
        f"  {result.sold} sold, {result.stock_left} left: {'it adds up' if result.adds_up else 'IT DOES NOT ADD UP'}.",
        f"  {result.orders_per_second:.0f} orders/s",
        f"  latency: p50 {result.latency_ms(0.5):.0f} ms, p99 {result.latency_ms(0.99):.0f} ms",
    ]
    if result.timeline is not None:
        lines += ["", f"One of the orders, {result.timeline.order_id}:"]
        lines += [f"  {event.created_at:%H:%M:%S.%f}  {event.status}" for event in result.timeline.events]
    return lines
