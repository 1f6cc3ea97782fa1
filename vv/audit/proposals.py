"""What a proposed fix consists of: a sentence, and a change, which is guarded SQL or an idempotent call."""

import json
from dataclasses import dataclass
from typing import Any

from vv.audit.facts import Lifecycle

RETURN_STOCK = "POST /inventory/rollback"
RETURN_MONEY = "POST /payments/cancel"


@dataclass(frozen=True)
class Sql:
    """Statements for the database of one service, run in one transaction; each must match exactly one row."""

    service: str
    statements: tuple[tuple[str, tuple[Any, ...]], ...]

    @property
    def lines(self) -> list[str]:
        return [f"{self.service}: {sql}; with {_arguments(args)}" for sql, args in self.statements]

    def to_json(self) -> dict[str, Any]:
        return {"database": self.service, "statements": [{"sql": sql, "args": args} for sql, args in self.statements]}


@dataclass(frozen=True)
class Call:
    """An idempotent call of a service that gives stock or money back."""

    endpoint: str
    body: tuple[str, str]

    @property
    def lines(self) -> list[str]:
        return [f"{self.endpoint} {json.dumps(dict([self.body]))}"]

    def to_json(self) -> dict[str, Any]:
        return {"call": self.endpoint, "body": dict([self.body])}


@dataclass(frozen=True)
class Proposal:
    """A sentence for people; without a ``change`` nothing can be done automatically, and it says what to look at."""

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
    """An UPDATE of a row that still has the version and status that were read.

    It raises the version, so that a service that is working on the row loses its next write.
    """
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
