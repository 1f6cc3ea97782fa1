"""The schema, one revision at a time, and what the services' accounts may do with it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pymysql
import pytest

import migrations
from common.database_url import parse_database_url
from tests.database_server import DatabaseServer
from vv import accounts, migrate
from vv.databases import SERVICES, Databases

FOLDER = Path(migrations.__file__).parent
FILES = sorted(FOLDER.glob("*/*.sql"))
each_service = pytest.mark.parametrize("service", SERVICES)

Schema = Mapping[str, str]


@pytest.fixture(scope="module")
def urls(database_server: DatabaseServer) -> Iterator[Mapping[str, str]]:
    """Three empty databases."""
    with database_server.further(*(f"{service}_migrations" for service in SERVICES)) as made:
        yield dict(zip(SERVICES, made, strict=True))


def connect(url: str) -> "pymysql.Connection[Any]":
    address = parse_database_url(url)
    return pymysql.connect(database=address.pop("db"), autocommit=True, **address)


def quiet(_: str) -> None:
    """Where migrations say what they do."""


def schema_of(url: str) -> Schema:
    """``SHOW CREATE TABLE`` of every table but yoyo's own."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        tables = [name for (name,) in cursor.fetchall() if "yoyo" not in name]
        found = {}
        for table in tables:
            cursor.execute(f"SHOW CREATE TABLE {table}")
            row = cursor.fetchone()
            assert row is not None
            found[table] = re.sub(r" AUTO_INCREMENT=\d+", "", row[1])
        return found


def up_by_one(service: str, url: str) -> Iterator[Schema]:
    """Apply one revision after the other; the schema after each."""
    with migrate._migrating(service, url, quiet) as backend:
        for migration in backend.to_apply(migrate._migrations(service)):
            migrate._run(backend, service, migration, "apply", quiet)
            yield schema_of(url)


@each_service
def test_each_revision_goes_up_down_and_up_again(service: str, urls: Mapping[str, str]) -> None:
    """A rollback leaves exactly what was there before its revision, and applying it again makes the same tables."""
    url = urls[service]
    steps = [schema_of(url), *up_by_one(service, url)]
    assert steps[0] == {}
    assert len(steps) == len(migrate.revisions(service)) + 1
    assert all(before != after for before, after in pairwise(steps))
    for before, revision in zip(reversed(steps[:-1]), reversed(migrate.revisions(service)), strict=True):
        assert migrate.rollback(service, url, 1, quiet) == [revision]
        assert schema_of(url) == before
    assert [{}, *up_by_one(service, url)] == steps


@each_service
def test_applying_twice_and_rolling_back_everything(service: str, urls: Mapping[str, str]) -> None:
    """A second apply has nothing to do; more steps back than there are revisions end with an empty database."""
    url = urls[service]
    migrate.apply(service, url, quiet)
    assert migrate.apply(service, url, quiet) == []
    assert all(revision.applied_at for revision in migrate.status(service, url))
    assert migrate.rollback(service, url, 99, quiet) == migrate.revisions(service)[::-1]
    assert schema_of(url) == {}
    assert not any(revision.applied_at for revision in migrate.status(service, url))


@each_service
def test_service_asks_for_the_newest_revision(service: str) -> None:
    """The revision without which /readyz fails is the last file of the folder."""
    assert migrate.newest(service) == import_module(f"{service}_service.app").SCHEMA_REVISION


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_file_is_one_statement_that_can_be_undone(path: Path) -> None:
    """Without the first line yoyo hides why DDL failed; and MySQL commits each DDL statement by itself."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("-- transactional: false\n")
    statement = re.sub(r"--.*", "", text).strip().rstrip(";")
    assert statement
    assert ";" not in statement
    twin = path.name.replace(".rollback.sql", ".sql") if ".rollback." in path.name else f"{path.stem}.rollback.sql"
    assert path.with_name(twin).exists()


@pytest.mark.parametrize("path", [path for path in FILES if ".rollback." not in path.name], ids=lambda path: path.name)
def test_every_text_column_says_how_it_compares(path: Path) -> None:
    """Keys and SKUs are binary: by MySQL's default `abc`, `ABC ` and `Àbc` would be one unique key."""
    text = path.read_text(encoding="utf-8")
    columns = re.findall(r"^\s+((?:ADD COLUMN )?\w+ +(?:VARCHAR|CHAR|TEXT).*)$", text, re.MULTILINE)
    assert [column for column in columns if not re.search(r"COLLATE (ascii|utf8mb4)_bin", column)] == []
    assert text.count("ENGINE = InnoDB") == text.count("CREATE TABLE")


@pytest.mark.parametrize(
    "path", [*FILES, *(FOLDER.parent / f"{service}_service" / "queries.py" for service in SERVICES)], ids=str
)
def test_sql_runs_on_mariadb_and_mysql(path: Path) -> None:
    """Nothing that only one of them understands."""
    for_one_only = r"\bRETURNING\b|VALUES\s*\(\w+\)\s*$|\bAS new\b|FOR SHARE|FOR UPDATE OF|\bUUID\b|data_locks"
    assert re.findall(for_one_only, path.read_text(encoding="utf-8")) == []


@each_service
def test_revisions_are_numbered_without_gaps(service: str) -> None:
    """In the order in which they apply."""
    numbers = [int(name.split("_")[0]) for name in migrate.revisions(service)]
    assert numbers == list(range(1, len(numbers) + 1))


@each_service
def test_every_table_is_granted(service: str, migrated: Databases) -> None:
    """No table is forgotten, and none is granted that does not exist."""
    tables = schema_of(migrated.migration_urls[service]).keys()
    assert tables == accounts.GRANTS[service].keys() - {"_yoyo_migration"}


# Command denied on a table, access denied to a database, privilege needed; for a trigger, where there is a binary log.
DENIED = {1142, 1044, 1227, 1419}
APPEND_ONLY = {"order": ["order_lines", "order_events"], "inventory": ["stock_ledger"], "payment": ["payment_events"]}
FORBIDDEN = [
    (service, statement)
    for service in SERVICES
    for statement in (
        *(f"DELETE FROM {table}" for table in accounts.GRANTS[service]),
        *(f"TRUNCATE TABLE {table}" for table in accounts.GRANTS[service]),
        *(f"DROP TABLE {table}" for table in accounts.GRANTS[service]),
        *(f"ALTER TABLE {table} ADD COLUMN x INT" for table in accounts.GRANTS[service]),
        *(f"UPDATE {table} SET created_at = NOW()" for table in APPEND_ONLY[service]),
        "UPDATE _yoyo_migration SET migration_id = ''",
        "INSERT INTO _yoyo_migration (migration_hash) VALUES ('x')",
        "CREATE TABLE mine (id INT)",
        "CREATE DATABASE mine",
        "CREATE USER mine",
        "CREATE TRIGGER mine BEFORE INSERT ON _yoyo_migration FOR EACH ROW SET @x = 1",
        "SET GLOBAL max_connections = 1",
        *(f"SELECT * FROM {{{other}}}._yoyo_migration" for other in SERVICES if other != service),
        "SELECT * FROM mysql.user",
    )
]


@pytest.mark.parametrize(("service", "statement"), FORBIDDEN)
def test_service_account_is_refused(
    service: str, statement: str, database_server: DatabaseServer, migrated: Databases
) -> None:
    """Nothing is deleted, no ledger or timeline rewritten, no schema changed, no other service's table read."""
    names = {other: database_server.name(accounts.database_of(other)) for other in SERVICES}
    with (
        closing(connect(migrated.service_urls[service])) as connection,
        connection.cursor() as cursor,
        pytest.raises(pymysql.MySQLError) as refused,
    ):
        cursor.execute(statement.format(**names))
    assert refused.value.args[0] in DENIED
