"""The database server of the tests: a private one, or the one that ``DATABASE_URL`` names.

On the latter several runs may be going on, and the databases of others may be: whatever is made there has a name that
begins with what this run has made up, and is dropped at the end.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from vv import accounts, migrate, sql
from vv.databases import SERVICES, Databases
from vv.mariadb import Mariadb

VARIABLE = "DATABASE_URL"


def given_url() -> str | None:
    """The URL of the server that the tests are to use: ``mysql://root:secret@127.0.0.1:3306/``."""
    return os.environ.get(VARIABLE) or None


class DatabaseServer:
    """A server that is up, with an account and an empty database for each service.

    :param root_url: any URL on it, of an account that may do everything
    :param passwords: of the services' accounts at least
    :param prefix: what the names of all databases and accounts begin with
    """

    def __init__(self, root_url: str, passwords: Mapping[str, str], prefix: str = "") -> None:
        self._root = urlsplit(root_url)
        self.passwords = passwords
        self._prefix = prefix

    @property
    def databases(self) -> Databases:
        """Those of the three services."""
        return Databases(
            {service: self._service_url(service) for service in SERVICES},
            {service: self.migration_url(service) for service in SERVICES},
        )

    def migration_url(self, service: str) -> str:
        """The database of a service, for the account that may do everything."""
        return self.url(self.name(accounts.database_of(service)))

    def url(self, database: str) -> str:
        """Any database, for the account that may do everything."""
        return self._root._replace(path=f"/{database}").geturl()

    def name(self, database: str) -> str:
        """What a database is called on this server."""
        return f"{self._prefix}{database}"

    def migrated(self) -> Databases:
        """The databases of the three services, with their tables, and with what each account may do there."""
        for service in SERVICES:
            migrate.apply(service, self.migration_url(service))
        with self._cursor() as cursor:
            for service in SERVICES:
                database = self.name(accounts.database_of(service))
                accounts.grant(cursor, service, account=self.account(service), database=database)
        return self.databases

    def account(self, service: str) -> str:
        return f"{self._prefix}{accounts.account_of(service)}"

    @contextmanager
    def further(self, *names: str) -> Iterator[list[str]]:
        """Further databases for a block, empty; their URLs, for the account that may do everything."""
        with ExitStack() as made:
            for name in names:
                self._execute(f"CREATE DATABASE `{self.name(name)}`")
                made.callback(self._execute, f"DROP DATABASE `{self.name(name)}`")
            yield [self.url(self.name(name)) for name in names]

    @contextmanager
    def further_stack(self, name: str) -> Iterator[dict[str, str]]:
        """Databases for a further stack for a block, with their tables; their URLs by service, for the account that may
        do everything."""
        with self.further(*(f"{name}_{service}" for service in SERVICES)) as made:
            urls = dict(zip(SERVICES, made, strict=True))
            for service, url in urls.items():
                migrate.apply(service, url)
            yield urls

    @contextmanager
    def with_accounts(self) -> Iterator[Self]:
        """The databases and accounts of the services for a block, which the server of somebody else lacks."""
        with ExitStack() as made:
            for service in SERVICES:
                account = self.account(service)
                self._execute(f"CREATE USER '{account}'@'%' IDENTIFIED BY '{self.passwords[account]}'")
                made.callback(self._execute, f"DROP USER '{account}'@'%'")
            made.enter_context(self.further(*map(accounts.database_of, SERVICES)))
            yield self

    def _execute(self, statement: str) -> None:
        with self._cursor() as cursor:
            cursor.execute(statement)

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        connection = sql.connect(self.url("information_schema"), autocommit=True)
        with closing(connection), connection.cursor() as cursor:
            # Whoever still has a transaction open in a database keeps it from being dropped, for a year by default.
            cursor.execute("SET SESSION lock_wait_timeout = 20")
            yield cursor

    def _service_url(self, service: str) -> str:
        account = self.account(service)
        address = self._root.netloc.rpartition("@")[2]
        path = f"/{self.name(accounts.database_of(service))}"
        return self._root._replace(netloc=f"{account}:{self.passwords[account]}@{address}", path=path).geturl()


@contextmanager
def running_server(folder: Path) -> Iterator[DatabaseServer]:
    """A private server in a folder for a block; with ``DATABASE_URL`` databases of one's own on that server."""
    if url := given_url():
        # MySQL allows accounts of 32 characters.
        prefix = f"vvt_{secrets.token_hex(4)}_"
        passwords = {f"{prefix}{accounts.account_of(service)}": secrets.token_urlsafe(24) for service in SERVICES}
        with DatabaseServer(url, passwords, prefix).with_accounts() as server:
            yield server
    else:
        mariadb = Mariadb(folder)
        with mariadb.running():
            yield DatabaseServer(mariadb.migration_url("order"), mariadb.passwords)
