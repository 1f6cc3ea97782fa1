"""``vv migrate``: the schema of the three databases, one revision at a time."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from common.security import Security
from common.settings import read_settings
from common.telemetry import Metrics
from vv import databases, migrate
from vv.commands_stack import data_dir_option
from vv.configuration import PROGRAMS
from vv.databases import SERVICES
from vv.output import json_option, say_aside, show

service_option = click.option(
    "--service",
    "services",
    type=click.Choice(SERVICES),
    multiple=True,
    default=SERVICES,
    help="Only this service's database; may be repeated.  [default: all three]",
)


@click.group("migrate")
def migrate_group() -> None:
    """Apply, undo and list migrations.

    Works on the databases that ORDER_MIGRATION_DATABASE_URL (else ORDER_DATABASE_URL) and so on name, else on the
    embedded database of the data folder, which is started for the time being when no stack runs.
    """


@migrate_group.command()
@service_option
@click.option(
    "--grant",
    is_flag=True,
    help="Then let the accounts of ORDER_DATABASE_URL and so on do what the services need, and no more.",
)
@data_dir_option
@json_option
def apply(services: Sequence[str], grant: bool, data_dir: Path, as_json: bool) -> None:
    """Apply every migration that is not applied yet.

    --grant needs accounts that exist, and for ORDER_MIGRATION_DATABASE_URL and so on one with GRANT OPTION. The
    accounts of the embedded database always get their rights.
    """
    with databases.reachable(data_dir, os.environ) as found:
        applied = {}
        for service in services:
            applied[service] = migrate.apply(service, found.migration_urls[service], say_aside)
            if grant and not found.embedded:
                migrate.grant(service, found.migration_urls[service], found.service_urls[service])
        if found.embedded:
            found.embedded.grant(services, afresh=False)
    lines = [f"{service}: {len(revisions)} applied" for service, revisions in applied.items()]
    show(applied, lines, as_json=as_json)


@migrate_group.command()
@service_option
@click.option("--steps", type=click.IntRange(1), default=1, show_default=True, help="How many revisions.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@data_dir_option
@json_option
def rollback(services: Sequence[str], steps: int, yes: bool, data_dir: Path, as_json: bool) -> None:
    """Undo the newest migrations. Their tables are dropped, with all that is in them."""
    with databases.reachable(data_dir, os.environ) as found:
        if not yes:
            for service in services:
                applied = [r.name for r in migrate.status(service, found.migration_urls[service]) if r.applied_at]
                click.echo(f"{service}: {', '.join(applied[::-1][:steps]) or 'nothing to undo'}", err=True)
            click.confirm("Undo these and lose the data in their tables?", abort=True, err=True)
        undone = {
            service: migrate.rollback(service, found.migration_urls[service], steps, say_aside) for service in services
        }
    lines = [f"{service}: {len(revisions)} rolled back" for service, revisions in undone.items()]
    show(undone, lines, as_json=as_json)


@migrate_group.command()
@service_option
@data_dir_option
@json_option
def status(services: Sequence[str], data_dir: Path, as_json: bool) -> None:
    """List every revision and when it was applied."""
    with databases.reachable(data_dir, os.environ) as found:
        revisions = {service: migrate.status(service, found.migration_urls[service]) for service in services}
    lines = [
        f"{service:<10} {revision.name:<32} {_state(revision)}"
        for service, each in revisions.items()
        for revision in each
    ]
    document = {service: [asdict(revision) for revision in each] for service, each in revisions.items()}
    show(document, lines, as_json=as_json)


@migrate_group.command()
@service_option
@click.option(
    "--within",
    "within_s",
    type=click.FloatRange(min=0),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long.",
)
@json_option
def wait(services: Sequence[str], within_s: float, as_json: bool) -> None:
    """Wait until every migration that this version needs is applied.

    For what runs right before a service: it reads that service's settings (its database, its certificate), and may do
    no more than it. Services that are not named are not looked at. Ends with 3 when the time is up.
    """
    for service in services:
        settings = read_settings(PROGRAMS[service].settings)
        tls = Security.from_settings(settings, Metrics(service)).client_tls
        migrate.wait(service, settings.database_url.get_secret_value(), tls, within_s, say_aside)
    show({"ready": list(services)}, [f"{service}: every migration is applied" for service in services], as_json=as_json)


def _state(revision: migrate.Revision) -> str:
    if revision.applied_at is None:
        return "not applied"
    when = f"applied {revision.applied_at:%Y-%m-%d %H:%M:%S}Z"
    return when if revision.known else f"{when}, unknown to this version"
