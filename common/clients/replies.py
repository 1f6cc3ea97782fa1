"""What a reply means: a contract, or a typed error. Pure."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from common.clients.transport import Reply, Request
from common.context import REQUEST_ID_HEADER
from common.contracts.base import Outcomes, Problem, View
from common.errors import ServiceError, ServiceUnavailable, TooManyRequests, error_from_problem

M = TypeVar("M", bound=BaseModel)
V = TypeVar("V", bound=View)

_TOO_MANY_REQUESTS = 429


def read_reply(request: Request, reply: Reply, contract: type[M]) -> M:
    """The body of a success as ``contract``.

    Raises the typed error of a problem document, and ServiceUnavailable for anything that the service itself cannot
    have said, such as the HTML page of a proxy: whatever its status, it is no word on the outcome.
    """
    if not 200 <= reply.status < 300:
        raise _read_error(request, reply)
    try:
        return contract.model_validate_json(reply.body)
    except ValidationError as error:
        raise ServiceUnavailable(
            f"{request.name} was answered with status {reply.status}, but the body is no {contract.__name__}."
        ) from error


def read_outcomes(outcomes: Outcomes[V], *, expected: int) -> list[V | ServiceError]:
    """The result or the typed error of each item of a batch, in order. Raises ServiceUnavailable."""
    if len(outcomes.items) != expected:
        raise ServiceUnavailable(f"The reply has {len(outcomes.items)} outcomes for {expected} items.")
    found: list[V | ServiceError] = []
    for outcome in outcomes.items:
        if outcome.result is not None:
            found.append(outcome.result)
        elif outcome.error is not None:
            found.append(_from_problem(outcome.error, outcome.status))
        else:
            found.append(ServiceUnavailable("The reply has an outcome with neither a result nor an error."))
    return found


def _read_error(request: Request, reply: Reply) -> ServiceError:
    try:
        error = _from_problem(Problem.model_validate_json(reply.body), reply.status)
    except ValidationError:
        error_class = TooManyRequests if reply.status == _TOO_MANY_REQUESTS else ServiceUnavailable
        content_type = reply.headers.get("Content-Type", "no content type")[:80]
        error = error_class(
            f"{request.name} was answered with status {reply.status} ({content_type}), "
            "but not by the service: this is no problem document."
        )
    if error.retry_after_s is None:
        error.retry_after_s = _header_retry_after_s(reply.headers)
    if error.request_id is None:
        error.request_id = reply.headers.get(REQUEST_ID_HEADER)
    return error


def _from_problem(problem: Problem, status: int) -> ServiceError:
    error = error_from_problem(problem.model_dump(), status=status)
    if not isinstance(error.retry_after_s, int | float) or not 0 <= error.retry_after_s < math.inf:
        error.retry_after_s = None
    return error


def _header_retry_after_s(headers: Mapping[str, str]) -> float | None:
    """RFC 9110, 10.2.3: a number of seconds or a date."""
    value = headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
