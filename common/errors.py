"""One vocabulary of errors: code <-> status, raised in a service and raised again in its client.

Each class below (and in ``common.contracts``) is a row of the table: the services turn it into an RFC 9457
problem document, the client library reads the same row backwards. The first line of the docstring is the title.
"""

from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError

from common.mistakes import in_words

T = TypeVar("T")

PROBLEM_CONTENT_TYPE = "application/problem+json"

ERRORS_BY_CODE: dict[str, type["ServiceError"]] = {}

_RESERVED = {"type", "title", "status", "detail", "code", "retryable", "request_id", "error", "retry_after_s"}


class ServiceError(Exception):
    """The request failed.

    ``status`` is the HTTP status, ``code`` a stable snake_case name, ``retryable`` whether the same request may
    succeed later, ``request_id`` the id under which the server logged it, ``retry_after_s`` seconds to wait
    before trying again, ``challenge`` how to prove who one is (the header ``WWW-Authenticate``), ``extra`` further
    members of the problem document (``lines``, ``errors``, ``order_id`` …).
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    retryable: bool = False
    challenge: str | None = None

    def __init_subclass__(cls) -> None:
        ERRORS_BY_CODE[cls.code] = cls

    def __init__(
        self,
        detail: str | None = None,
        /,
        *,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        **extra: Any,
    ) -> None:
        self.detail = detail or self.title()
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.extra = extra
        super().__init__(self.detail)

    @classmethod
    def title(cls) -> str:
        return (cls.__doc__ or cls.__name__).splitlines()[0].rstrip(".")

    @property
    def is_refusal(self) -> bool:
        """Whether the server definitely did nothing and will not: the only kind of error that is a *failure*.

        Everything else (a timeout, a reset, a 5xx, "try again") leaves the outcome unknown.
        """
        return 400 <= self.status < 500 and not self.retryable

    def to_problem(self, request_id: str | None = None) -> dict[str, Any]:
        """The problem document: RFC 9457 members, ours, and ``error``, which the Go original's clients read."""
        problem = {
            "type": f"urn:vv-ecommerce:problem:{self.code}",
            "title": self.title(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
            "request_id": request_id or self.request_id,
            "error": self.detail,
        }
        if self.retry_after_s is not None:
            problem["retry_after_s"] = self.retry_after_s
        return problem | self.extra


def unwrap(outcome: "T | ServiceError") -> T:
    """The result of one item of a list, or its error raised."""
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def error_from_problem(problem: dict[str, Any], *, status: int | None = None) -> ServiceError:
    """The typed error that a problem document stands for.

    A code that this version does not know becomes the general error of its status, so that an old client
    still tells a refusal from an outage.
    """
    found_status = status if status is not None else problem.get("status", 500)
    error_class = ERRORS_BY_CODE.get(str(problem.get("code"))) or general_error(int(found_status))
    detail = problem.get("detail") or problem.get("error") or problem.get("title")
    error = error_class(
        str(detail) if detail else None,
        request_id=problem.get("request_id"),
        retry_after_s=problem.get("retry_after_s"),
        **{key: value for key, value in problem.items() if key not in _RESERVED},
    )
    if isinstance(problem.get("retryable"), bool):
        error.retryable = problem["retryable"]
    return error


def general_error(status: int) -> type[ServiceError]:
    """The error that says of a status what can be said in general."""
    general: dict[int, type[ServiceError]] = {
        401: Unauthenticated,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        413: PayloadTooLarge,
        429: TooManyRequests,
        500: InternalError,
        504: DeadlineExceeded,
    }
    return general.get(status) or (InvalidRequest if 400 <= status < 500 else ServiceUnavailable)


class InvalidRequest(ServiceError):
    """The request is not valid.

    ``extra["errors"]`` lists ``{"field": "items.0.quantity", "message": "…"}``.
    """

    code = "invalid_request"
    status = 400


def invalid_field(name: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{name}: {message}", errors=[{"field": name, "message": message}])


def invalid_request(error: ValidationError) -> InvalidRequest:
    """The error that names each field that pydantic refused. Values are not repeated."""
    found = [
        {"field": ".".join(str(part)[:64] for part in mistake["loc"]) or "body", "message": in_words(mistake)[:300]}
        for mistake in error.errors(include_input=False, include_url=False)[:20]
    ]
    return InvalidRequest("; ".join(f"{one['field']}: {one['message']}" for one in found), errors=found)


class MalformedHttp(ServiceError):
    """The request is not well-formed HTTP."""

    code = "malformed_http"
    status = 400


class PayloadTooLarge(ServiceError):
    """The request body is too large."""

    code = "payload_too_large"
    status = 413


class UnsupportedMediaType(ServiceError):
    """The request body must be JSON in UTF-8."""

    code = "unsupported_media_type"
    status = 415


class Unauthenticated(ServiceError):
    """The caller did not prove its identity."""

    code = "unauthenticated"
    status = 401
    # For the metrics; the caller is not told.
    reason = "no_token"
    challenge = "Bearer"


class Forbidden(ServiceError):
    """The caller may not do this."""

    code = "forbidden"
    status = 403
    # For the metrics; the caller is not told.
    reason = "lacks_scope"
    challenge = 'Bearer error="insufficient_scope"'


class NotFound(ServiceError):
    """There is no such thing."""

    code = "not_found"
    status = 404


class RouteNotFound(NotFound):
    """There is no such endpoint."""

    code = "route_not_found"


class MethodNotAllowed(ServiceError):
    """The endpoint does not take this method."""

    code = "method_not_allowed"
    status = 405


class Conflict(ServiceError):
    """The request contradicts the present state."""

    code = "conflict"
    status = 409


class RequestInProgress(Conflict):
    """A request with this key is still running."""

    code = "request_in_progress"
    retryable = True


class IdempotencyMismatch(ServiceError):
    """The idempotency key was used before with another body."""

    code = "idempotency_mismatch"
    status = 422


class TooManyRequests(ServiceError):
    """Too many requests."""

    code = "too_many_requests"
    status = 429
    retryable = True


class InternalError(ServiceError):
    """The server met an error that it did not expect."""

    code = "internal_error"
    status = 500
    retryable = True


class ServiceUnavailable(ServiceError):
    """The service cannot be reached or cannot answer now."""

    code = "service_unavailable"
    status = 503
    retryable = True


class DatabaseUnavailable(ServiceUnavailable):
    """The database cannot be reached or cannot answer now."""

    code = "database_unavailable"


class Overloaded(ServiceUnavailable):
    """The service has more work than it takes."""

    code = "overloaded"


class CircuitOpen(ServiceUnavailable):
    """The service failed repeatedly, so the client does not call it for a moment."""

    code = "circuit_open"


class DeadlineExceeded(ServiceError):
    """The time that the caller gave is over."""

    code = "deadline_exceeded"
    status = 504
    retryable = True
