"""``vv audit``."""

import asyncio
import math
import os
import ssl
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pymysql
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.clients import AsyncPaymentClient
from common.errors import DatabaseUnavailable
from vv import certs, databases, stack_file
from vv.audit import Books, Report, audit, open_books
from vv.audit.books import EVER, OVERDUE_S
from vv.audit.fixes import propose
from vv.audit.output import Repair, report_document, report_lines, violation_lines
from vv.audit.repair import repair
from vv.commands_stack import data_dir_option
from vv.errors import Unavailable
from vv.output import json_option, say_aside, show

_NO_SUCH_TABLE = 1146


@dataclass(frozen=True)
class Wanted:
    """What to audit, how strictly, and whether to ask before each repair."""

    since: datetime = EVER
    gateway_url: str | None = None
    overdue_s: float = OVERDUE_S
    quiesced: bool = False
    yes: bool = False
    tls: ssl.SSLContext | None = None


@click.command("audit")
@data_dir_option
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]),
    help="Look only at orders, payments and SKUs made at this time or later; UTC, as 2026-11-22T16:50:00.",
)
@click.option(
    "--gateway-url",
    envvar="PAYMENT_GATEWAY_URL",
    show_envvar=True,
    help="Where the gateway is whose ledger must equal ours.  "
    "[default: that of the running stack; without one only the sandbox's table is compared]",
)
@click.option(
    "--overdue-s",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="How long ago a lease may have expired without recovery resuming the work.  "
    f"[default: {OVERDUE_S:.0f}; any time if the stack of the data folder does not run]",
)
@click.option("--quiesced", is_flag=True, help="Demand that no order and no payment is unfinished.")
@click.option("--repair", "wants_repair", is_flag=True, help="Propose a repair for each violation, and ask before it.")
@click.option("--yes", is_flag=True, help="With --repair: do not ask.")
@json_option
def audit_command(
    data_dir: Path,
    since: datetime | None,
    gateway_url: str | None,
    overdue_s: float | None,
    quiesced: bool,
    wants_repair: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Check every promise about stock and money, across the three databases and the payment gateway.

    Only reads, and may run while orders are being placed. Works on the embedded database of the data folder (which is
    started for the time being if no stack runs), or on ORDER_DATABASE_URL, INVENTORY_DATABASE_URL and
    PAYMENT_DATABASE_URL when these are set.

    With --repair what can be repaired safely is repaired, each violation after a question; then everything is audited
    again. Rows that have changed since they were read are left alone. Money goes back through the payment service, at
    PAYMENT_URL or where the running stack has it.

    Exit code: 0 every invariant holds (after the repairs), 1 some do not, 2 wrong usage, 3 a database, or the gateway,
    cannot be reached.
    """
    if yes and not wants_repair:
        raise click.UsageError("--yes goes with --repair.")
    if wants_repair and not yes and not sys.stdin.isatty():
        raise click.UsageError("--repair asks before each repair, and standard input is no terminal; add --yes.")
    stack = stack_file.read(data_dir)
    gateway_url = gateway_url or (stack or {}).get("gateway")
    payment_url = os.environ.get("PAYMENT_URL") or (stack or {}).get("payment") or AsyncPaymentClient.default_url
    with databases.reachable(data_dir, os.environ, must_exist=True) as found:
        if overdue_s is None:
            # With no service running, no recovery could have resumed anything.
            overdue_s = math.inf if found.embedded and stack is None else OVERDUE_S
        tls = _operator_tls(data_dir, stack)
        wanted = Wanted(_in_utc(since) if since else EVER, gateway_url, overdue_s, quiesced, yes, tls)
        report, repairs = asyncio.run(_audit(found.service_urls, wanted, payment_url if wants_repair else None))
    show(report_document(report, repairs), report_lines(report), as_json=as_json)
    if not report.is_clean:
        raise SystemExit(1)


def _operator_tls(data_dir: Path, stack: Mapping[str, Any] | None) -> ssl.SSLContext | None:
    """For calls to the gateway and the payment service, which may be running without the rest of the stack."""
    folder = (data_dir / "certs") if stack is None else stack["certificates"]
    return certs.operator_tls(Path(folder)) if folder and Path(folder).is_dir() else None


async def audit_with_progress(
    urls: Mapping[str, str], gateway_url: str | None, tls: ssl.SSLContext | None = None
) -> Report:
    """Audit the databases and the gateway, with a progress bar on standard error. Raises Unavailable."""
    report, _ = await _audit(urls, Wanted(gateway_url=gateway_url, tls=tls), None)
    return report


async def _audit(
    urls: Mapping[str, str], wanted: Wanted, payment_url: str | None
) -> tuple[Report, list[Repair] | None]:
    try:
        async with open_books(
            urls, wanted.since, gateway_url=wanted.gateway_url, tls=wanted.tls, overdue_s=wanted.overdue_s
        ) as books:
            report = await _with_progress(books, wanted.quiesced)
            if payment_url is None:
                return report, None
            repairs = await _repair_all(books, report, wanted, payment_url)
            if repairs:
                report = await _with_progress(books, wanted.quiesced)
            return report, repairs
    except DatabaseUnavailable as error:
        raise Unavailable(f"The audit could not be made: {error.detail}.") from error
    except pymysql.err.ProgrammingError as error:
        if error.args[0] != _NO_SUCH_TABLE:
            raise
        raise Unavailable(f"The audit could not be made: {error.args[-1]}; run: vv migrate apply") from error


async def _with_progress(books: Books, quiesced: bool) -> Report:
    console = Console(stderr=True)
    columns = (TextColumn("Auditing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        task = progress.add_task("audit", total=await books.count())
        stack.enter_context(progress)
        return await audit(books, lambda rows: progress.advance(task, rows), quiesced=quiesced)


async def _repair_all(books: Books, report: Report, wanted: Wanted, payment_url: str) -> list[Repair]:
    """The outcome of each repair that was made or tried; questions and progress go to standard error."""
    repairs = []
    for violation in report.violations:
        proposal = propose(violation)
        for line in [violation.invariant, *violation_lines(violation)]:
            say_aside(line)
        if proposal.change is None or not (wanted.yes or click.confirm("Do this?", default=False, err=True)):
            continue
        try:
            outcome = await repair(books, violation, proposal, payment_url, wanted.tls)
        except DatabaseUnavailable as error:
            # Somebody may hold a row of this one, and none of the next.
            outcome = f"{error.detail} The audit that follows shows whether it was done."
        except Unavailable as error:
            outcome = f"{error.message} The audit that follows shows whether it was done."
        say_aside(outcome)
        repairs.append(Repair(violation, outcome))
    return repairs


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
