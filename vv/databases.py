"""Which databases a command works with: the configured ones, else the embedded one of the data folder."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from common.database_url import parse_database_url
from common.settings_sources import SettingMistake, secret_in
from vv import folder
from vv.accounts import GRANTS
from vv.errors import Unavailable
from vv.mariadb import Mariadb
from vv.output import Say, say_aside

SERVICES = tuple(GRANTS)


@dataclass(frozen=True)
class Databases:
    """A URL a service: for the service itself, and for whoever migrates (and may read everything)."""

    service_urls: Mapping[str, str]
    migration_urls: Mapping[str, str]
    # None when the databases are somebody else's.
    embedded: Mariadb | None = None


def configured(environment: Mapping[str, str]) -> Databases | None:
    """The databases that the environment names, itself or in files (``ORDER_DATABASE_URL_FILE``), or None.

    Raises click.UsageError when it names some of them only, or when a URL is malformed.
    """
    variables = {service: f"{service.upper()}_DATABASE_URL" for service in SERVICES}
    missing = [variable for variable in variables.values() if not _secret(environment, variable)]
    if len(missing) == len(variables):
        return None
    if missing:
        raise click.UsageError(f"Set {' and '.join(missing)}, too, or none of {', '.join(variables.values())}.")
    service_urls = {service: _checked(environment, variable) for service, variable in variables.items()}
    migration_urls = {
        service: _checked(environment, f"{service.upper()}_MIGRATION_DATABASE_URL", service_urls[service])
        for service in SERVICES
    }
    return Databases(service_urls, migration_urls)


def embedded(mariadb: Mariadb) -> Databases:
    """The databases of the server in a data folder."""
    return Databases(
        {service: mariadb.service_url(service) for service in SERVICES},
        {service: mariadb.migration_url(service) for service in SERVICES},
        mariadb,
    )


@contextmanager
def reachable(
    data_dir: Path, environment: Mapping[str, str], say: Say = say_aside, *, must_exist: bool = False
) -> Iterator[Databases]:
    """The databases, whether a stack runs or not: the embedded server is started for the block if need be, and made
    unless it ``must_exist``.

    Blocks. Raises Unavailable, click.UsageError.
    """
    found = configured(environment)
    if found is not None:
        yield found
        return
    mariadb = Mariadb(data_dir)
    if must_exist and not mariadb.exists:
        raise Unavailable(f"There is no database in {data_dir}; name its folder with --data-dir.")
    with ExitStack() as running:
        try:
            running.enter_context(folder.locked(data_dir))
        except folder.FolderInUse:
            if not mariadb.is_ready():
                raise Unavailable(f"The stack in {data_dir} is starting or stopping; try again later.") from None
        else:
            running.enter_context(mariadb.running(say))
        yield embedded(mariadb)


def _checked(environment: Mapping[str, str], variable: str, default: str = "") -> str:
    url = _secret(environment, variable) or default
    try:
        parse_database_url(url)
    except ValueError as error:
        raise click.UsageError(f"{variable} {error}.") from None
    return url


def _secret(environment: Mapping[str, str], variable: str) -> str | None:
    try:
        return secret_in(environment, variable)
    except SettingMistake as error:
        raise click.UsageError(f"{error}.") from None
