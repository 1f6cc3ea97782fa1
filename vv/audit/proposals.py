"""What a repair does: SQL that hits what was seen or nothing, or a call that may be repeated."""

import json
from dataclasses import dataclass
from typing import Any

from vv.audit.facts import Lifecycle

RETURN_STOCK = "POST /inventory/rollback"
RETURN_MONEY = "POST /payments/cancel"


@dataclass(frozen=True)
class Sql:
    """Statements for the database of one service, run in one transaction, each of which must hit exactly one row."""

    service: str
    statements: tuple[tuple[str, tuple[Any, ...]], ...]

    @property
    def lines(self) -> list[str]:
        return [f"{self.service}: {sql}; with {_arguments(args)}" for sql, args in self.statements]

    def to_json(self) -> dict[str, Any]:
        return {"database": self.service, "statements": [{"sql": sql, "args": args} for sql, args in self.statements]}


@dataclass(frozen=True)
class Call:
    """A call of a service that undoes something, and may be repeated."""

    endpoint: str
    body: tuple[str, str]

    @property
    def lines(self) -> list[str]:
        return [f"{self.endpoint} {json.dumps(dict([self.body]))}"]

    def to_json(self) -> dict[str, Any]:
        return {"call": self.endpoint, "body": dict([self.body])}


@dataclass(frozen=True)
class Proposal:
    """A sentence for people; without a ``change`` it says what to look at, and nothing can be done by itself."""

    sentence: str
    change: Sql | Call | None = None


def _arguments(args: tuple[Any, ...]) -> str:
    return ", ".join("NULL" if value is None else str(value) for value in args)


def guarded_update(
    service: str,
    table: str,
    facts: Lifecycle,
    change: str,
    args: tuple[Any, ...] = (),
    guard: str = "",
    guard_args: tuple[Any, ...] = (),
) -> Sql:
    """A change of a row that has the version and status that were seen; whoever drives it loses it."""
    return Sql(
        service,
        (
            (
                f"UPDATE {table} SET {change}, version = version + 1 WHERE order_id = %s AND version = %s "
                "AND status = %s" + (f" AND {guard}" if guard else ""),
                (*args, facts.order_id, facts.version, facts.status, *guard_args),
            ),
        ),
    )
