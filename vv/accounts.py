"""Who may do what in the embedded database: one account a service, table by table."""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vv.folder import write_whole

# What each service may do with which table. Append-only tables have neither UPDATE nor DELETE; nobody may DELETE,
# and nobody but root changes a schema.
GRANTS: Mapping[str, Mapping[str, str]] = {
    "order": {
        "orders": "SELECT, INSERT, UPDATE",
        "order_lines": "SELECT, INSERT",
        "order_events": "SELECT, INSERT",
        "_yoyo_migration": "SELECT",
    },
    "inventory": {
        "inventory": "SELECT, INSERT, UPDATE",
        "stock_ledger": "SELECT, INSERT",
        "_yoyo_migration": "SELECT",
    },
    "payment": {
        "payments": "SELECT, INSERT, UPDATE",
        "refunds": "SELECT, INSERT, UPDATE",
        "payment_events": "SELECT, INSERT",
        "sandbox_gateway": "SELECT, INSERT",
        "_yoyo_migration": "SELECT",
    },
}

# Root comes through the socket only and migrates. It has a password all the same: the data folder may be one that
# others can enter, and the socket in it accepts whoever reaches it.
ROOT = "root"


def database_of(service: str) -> str:
    return f"{service}_db"


def account_of(service: str) -> str:
    return f"{service}_service"


def read_or_make_passwords(path: Path) -> dict[str, str]:
    """The password of each account, made up the first time and kept in ``path`` for this user's eyes only.

    Deleting the file is the way to change every password: the next start of the database takes over the new ones.
    """
    passwords: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = {ROOT, *map(account_of, GRANTS)} - passwords.keys()
    if missing:
        # URL-safe, so that they need no quoting in URLs or in SQL.
        passwords |= {account: secrets.token_urlsafe(24) for account in sorted(missing)}
        write_whole(path, json.dumps(passwords, indent=2) + "\n")
    return passwords


def setup_sql(passwords: Mapping[str, str]) -> str:
    """Databases and accounts, to be run on each start before the server lets anybody in."""
    root = f"'{ROOT}'@'localhost'"
    statements = [
        f"CREATE USER IF NOT EXISTS {root}",
        f"ALTER USER {root} IDENTIFIED BY '{passwords[ROOT]}'",
        f"GRANT ALL PRIVILEGES ON *.* TO {root} WITH GRANT OPTION",
    ]
    for service in GRANTS:
        # From any host, of which there is but one: the server listens on its socket and on 127.0.0.1.
        account = f"'{account_of(service)}'@'%'"
        statements += [
            f"CREATE DATABASE IF NOT EXISTS {database_of(service)} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            f"CREATE USER IF NOT EXISTS {account}",
            f"ALTER USER {account} IDENTIFIED BY '{passwords[account_of(service)]}'",
        ]
    return ";\n".join(statements) + ";\n"


def grant(
    cursor: Any, service: str, *, account: str | None = None, database: str | None = None, afresh: bool = False
) -> None:
    """Grant a service's account what the table above says. The tables must exist.

    ``account`` and ``database`` are those of the embedded server unless they are given. ``afresh`` takes every earlier
    privilege away first, so it is for a moment when the service does not run.
    """
    account = account or account_of(service)
    if afresh:
        cursor.execute("REVOKE ALL PRIVILEGES, GRANT OPTION FROM %s@'%%'", (account,))
    for table, privileges in GRANTS[service].items():
        place = f"`{(database or database_of(service)).replace('`', '``')}`.{table}"
        cursor.execute(f"GRANT {privileges} ON {place.replace('%', '%%')} TO %s@'%%'", (account,))
