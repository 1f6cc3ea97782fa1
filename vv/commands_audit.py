"""``vv audit``."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.errors import DatabaseUnavailable
from vv import databases
from vv.audit import Report, audit
from vv.audit_facts import EVER, open_books
from vv.commands_stack import data_dir_option
from vv.errors import Unavailable
from vv.output import json_option, show


@click.command("audit")
@data_dir_option
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]),
    help="Look only at orders, payments and SKUs made at this time or later; UTC, as 2026-11-22T16:50:00.",
)
@json_option
def audit_command(data_dir: Path, since: datetime | None, as_json: bool) -> None:
    """Check the books: every promise about stock and money, across the three databases.

    Only reads, and may run while orders are being placed. Works on the embedded database of the data folder (which is
    started for the time being if no stack runs), or on ORDER_DATABASE_URL, INVENTORY_DATABASE_URL and
    PAYMENT_DATABASE_URL when these are set.

    Exit code: 0 every invariant holds, 1 some do not, 2 wrong usage, 3 a database cannot be reached.
    """
    with databases.reachable(data_dir, os.environ) as found:
        report = asyncio.run(audit_with_progress(found.service_urls, _in_utc(since) if since else EVER))
    show(report_document(report), report_lines(report), as_json=as_json)
    if not report.is_clean:
        raise SystemExit(1)


async def audit_with_progress(urls: Mapping[str, str], since: datetime = EVER) -> Report:
    """Audit the databases, from ``since`` on, with a progress bar on standard error. Raises Unavailable."""
    console = Console(stderr=True)
    columns = (TextColumn("Auditing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        async with open_books(urls, since) as books:
            with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
                task = progress.add_task("audit", total=await books.count())
                return await audit(books, lambda count: progress.advance(task, count))
    except DatabaseUnavailable as error:
        raise Unavailable(f"The audit could not be made: {error.detail}.") from error


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def report_document(report: Report) -> dict[str, Any]:
    return {"clean": report.is_clean} | asdict(report)


def report_lines(report: Report) -> list[str]:
    """A line for each invariant, and what violates it below."""
    lines = [f"Audited {report.orders} orders, {report.payments} payments and {report.skus} SKUs."]
    for name in report.invariants:
        violations = [violation for violation in report.violations if violation.invariant == name]
        lines.append(f"  {'VIOLATED' if violations else 'ok':<9} {name}")
        lines += [f"            {one.subject}: {one.problem}\n              {one.rows}" for one in violations[:20]]
        if len(violations) > 20:
            lines.append(f"            … and {len(violations) - 20} more (all of them with --json)")
    lines.append("The books are clean." if report.is_clean else f"{len(report.violations)} violations.")
    return lines
