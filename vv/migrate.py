"""Migrations: yoyo over ``migrations/SERVICE/*.sql``, made to survive a kill -9 at any moment."""

import contextlib
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import pymysql
from yoyo import read_migrations

from common.database_url import parse_database_url
from vv import accounts, sql
from vv.errors import Refused, Unavailable
from vv.output import Say, say
from vv.yoyo_backend import UNDOING, Backend

# No such table; no privilege on it; a column is missing because yoyo was killed while it created the table.
_NOT_TO_BE_SEEN = {1146, 1142, 1054}
# Table, column or key is there already, or is gone already.
_DONE_ALREADY = {1050, 1051, 1060, 1061, 1091}
_LOCK_WAIT_S = 30
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Revision:
    """One migration of a service's database; ``applied_at`` is None while it is not applied."""

    name: str
    applied_at: datetime | None
    # False for a revision that the database has and this version of the program does not know.
    known: bool = True


def revisions(service: str) -> list[str]:
    """The revisions of a service, oldest first."""
    files = (resources.files("migrations") / service).iterdir()
    names = (file.name.removesuffix(".sql") for file in files if file.name.endswith(".sql"))
    return sorted(name for name in names if not name.endswith(".rollback"))


def newest(service: str) -> str:
    """The revision that the service needs."""
    return revisions(service)[-1]


def apply(service: str, url: str, say: Say = say) -> list[str]:
    """Apply what is not applied yet and return it, oldest first. Blocks.

    Raises Unavailable (no connection, or somebody else is migrating for too long) and Refused (the server
    refused a statement; what came before it stays applied). Where nothing is to be done, an account that may
    not change the schema will do.
    """
    if all(revision.applied_at for revision in status(service, url)) and not _is_half_undone(service, url):
        return []
    with _migrating(service, url, say) as backend:
        _refuse_half_undone(backend, service)
        missing = backend.to_apply(_migrations(service))
        for migration in missing:
            _run(backend, service, migration, "apply", say)
        return [migration.id for migration in missing]


def rollback(service: str, url: str, steps: int = 1, say: Say = say) -> list[str]:
    """Undo the newest ``steps`` revisions and return them, newest first. Blocks. Raises as :func:`apply` does."""
    with _migrating(service, url, say) as backend:
        undone = list(backend.to_rollback(_migrations(service)))[:steps]
        for migration in undone:
            _run(backend, service, migration, "rollback", say)
        return [migration.id for migration in undone]


def status(service: str, url: str, tls: ssl.SSLContext | None = None) -> list[Revision]:
    """Every revision of a service, oldest first. Changes nothing. Blocks. Raises Unavailable."""
    query = "SELECT migration_id, applied_at_utc FROM _yoyo_migration"
    applied = {name: at.replace(tzinfo=UTC) for name, at in _read(service, url, query, tls)}
    known = revisions(service)
    return [Revision(name, applied.get(name)) for name in known] + [
        Revision(name, applied[name], known=False) for name in sorted(applied.keys() - set(known))
    ]


def wait(service: str, url: str, tls: ssl.SSLContext | None, within_s: float, say: Say = say) -> None:
    """Return when somebody has applied every revision that is known here. Changes nothing. Blocks.

    Raises Unavailable when ``within_s`` have passed.
    """
    deadline = time.monotonic() + within_s
    told = ""
    while True:
        try:
            missing = [revision.name for revision in status(service, url, tls) if revision.applied_at is None]
            if not missing:
                return
            problem = f"The {service} database lacks the migration {', '.join(missing)}."
        except Unavailable as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise Unavailable(problem)
        if problem != told:
            say(problem)
            told = problem
        time.sleep(_LOOK_EVERY_S)


def grant(service: str, migration_url: str, service_url: str) -> None:
    """Let the account of ``service_url`` do what the service needs, table by table. Blocks.

    The account must exist, and that of ``migration_url`` must be allowed to grant. Raises Unavailable, Refused.
    """
    account = parse_database_url(service_url)
    with contextlib.closing(_connect(service, migration_url)) as connection, connection.cursor() as cursor:
        try:
            accounts.grant(cursor, service, account=account["user"], database=account["db"])
        except pymysql.MySQLError as error:
            raise Refused(f"{service}: {account['user']} could not be granted its rights: {error.args[-1]}.") from error


def _migrations(service: str) -> Any:
    # Not a path: yoyo would take brackets in it for a pattern.
    return read_migrations(f"package:migrations:{service}")


@contextmanager
def _migrating(service: str, url: str, say: Say) -> Iterator[Backend]:
    """A yoyo backend that nobody else can be using."""
    try:
        backend = Backend(url)
    except pymysql.MySQLError as error:
        raise _unreachable(service, error) from error
    with backend:
        # The server drops this lock with the connection, which yoyo's own lock, a row, does not.
        if not backend.take_lock(_LOCK_WAIT_S):
            raise Unavailable(f"The {service} database is being migrated by somebody else; try again later.")
        holder = backend.break_stale_lock()
        if holder is not None:
            say(f"{service}: broke the lock of a migration that was killed (pid {holder}).")
        if backend.discard_half_made_bookkeeping():
            say(f"{service}: discarded half-made migration tables of a migration that was killed.")
        # For people who run yoyo by hand.
        with backend.lock():
            backend.ensure_internal_schema_updated()
            yield backend


def _refuse_half_undone(backend: Backend, service: str) -> None:
    """A rollback that was killed may have dropped its table or not. To drop it now is not ours to decide."""
    for migration in backend.to_rollback(_migrations(service)):
        if backend.has_begun(migration, "rollback"):
            raise Refused(
                f"{service}: the rollback of {migration.id} was killed half-way; "
                f"finish it first: vv migrate rollback --service {service}"
            )


def _run(backend: Backend, service: str, migration: Any, direction: str, say: Say) -> None:
    """Apply or undo one migration; each is one DDL statement, which happens as a whole or not at all."""
    # A kill between the statement and yoyo's note of it would make the next run fail: it would run it again.
    interrupted = backend.has_begun(migration, direction)
    backend.note_beginning(migration, direction)
    try:
        if direction == "apply":
            backend.apply_one(migration)
        else:
            backend.rollback_one(migration)
    except pymysql.MySQLError as error:
        if not interrupted or error.args[0] not in _DONE_ALREADY:
            backend.note_end(migration, direction)
            raise Refused(f"{service}: {direction} of {migration.id} failed: {error.args[-1]}.") from error
        say(f"{service}: {migration.id} had been carried out by a migration that was killed.")
        backend.note_done(migration, direction)
    backend.note_end(migration, direction)
    say(f"{service}: {'applied' if direction == 'apply' else 'rolled back'} {migration.id}.")


def _is_half_undone(service: str, url: str) -> bool:
    return bool(_read(service, url, f"SELECT 1 FROM _yoyo_log WHERE operation = '{UNDOING}'"))


def _read(service: str, url: str, query: str, tls: ssl.SSLContext | None = None) -> Sequence[Any]:
    """The rows of a query; none when the table is not there, or not for the eyes of this account."""
    with contextlib.closing(_connect(service, url, tls)) as connection, connection.cursor() as cursor:
        try:
            cursor.execute(query)
            rows: Sequence[Any] = cursor.fetchall()
        except pymysql.MySQLError as error:
            if error.args[0] not in _NOT_TO_BE_SEEN:
                raise Unavailable(f"The {service} database does not answer: {error.args[-1]}.") from error
            return []
    return rows


def _connect(service: str, url: str, tls: ssl.SSLContext | None = None) -> Any:
    try:
        return sql.connect(url, tls)
    except pymysql.MySQLError as error:
        raise _unreachable(service, error) from error


def _unreachable(service: str, error: pymysql.MySQLError) -> Unavailable:
    return Unavailable(f"The {service} database cannot be reached: {error.args[-1]}.")
