"""The route table of a service, from which both its router and its ``/openapi.json`` are made."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel

from common.contracts.access import ANYBODY, Access, Caller
from common.contracts.base import Outcome, Outcomes, Problem, View
from common.errors import ServiceError

BODY_BYTES_MAX = 64 * 1024
BATCH_BODY_BYTES_MAX = 1024 * 1024

B = TypeVar("B")
Q = TypeVar("Q")
H = TypeVar("H")


@dataclass(frozen=True)
class Call(Generic[B, Q, H]):
    """A parsed request: what a handler needs to know of it."""

    body: B
    query: Q
    headers: H
    caller: Caller = ANYBODY


@dataclass(frozen=True)
class Reply:
    """What a handler answers: a status, a contract (or an error that it did not raise) and headers."""

    status: int
    body: BaseModel | ServiceError
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def problem(cls, error: ServiceError, headers: dict[str, str]) -> Self:
        """Answer with an error and headers of one's own."""
        return cls(error.status, error, headers)


@dataclass(frozen=True)
class Route:
    """A row of a service's route table.

    ``access`` is who may call it, ``body`` and ``query`` are the contracts that the request must fit (a path parameter
    is a field of ``query``), ``replies`` the contract of each success, ``reply_headers`` that of its headers,
    ``errors`` what it may refuse with.
    """

    method: str
    path: str
    handler: Callable[[Call[Any, Any, Any]], Awaitable[Reply]]
    summary: str
    access: Access
    replies: dict[int, type[BaseModel]]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: type[BaseModel] | None = None
    reply_headers: type[BaseModel] | None = None
    errors: Sequence[type[ServiceError]] = ()
    body_bytes_max: int = BODY_BYTES_MAX


def batch_reply(outcomes: Sequence[View | ServiceError], status: Callable[[Any], int] = lambda _: 200) -> Reply:
    """Answer a batch: 200 with the status and result or problem of each item, in order."""
    return Reply(
        200,
        Outcomes[Any](
            items=[
                Outcome(status=outcome.status, error=Problem.model_validate(outcome.to_problem()))
                if isinstance(outcome, ServiceError)
                else Outcome(status=status(outcome), result=outcome)
                for outcome in outcomes
            ]
        ),
    )
