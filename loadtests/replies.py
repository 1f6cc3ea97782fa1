"""What came back from a service."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from locust.contrib.fasthttp import ResponseContextManager
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Reply:
    """A reply; ``status`` is 0 if there was none, and ``error`` says why. Names of ``headers`` are in lower case."""

    status: int
    headers: Mapping[str, str]
    document: Any
    error: str = ""

    @classmethod
    def of(cls, response: ResponseContextManager) -> "Reply":
        headers = {name.lower(): value for name, value in (response.headers or {}).items()}
        try:
            document = json.loads(response.content or b"null")
        except ValueError:
            document = None
        return cls(response.status_code, headers, document, str(getattr(response, "error", None) or ""))

    @property
    def code(self) -> str | None:
        """The code of a problem document."""
        return self.document.get("code") if self.status >= 400 and isinstance(self.document, dict) else None

    @property
    def outcome(self) -> tuple[int, str | None]:
        return self.status, self.code

    @property
    def is_overload(self) -> bool:
        """A refusal at the door, with which nothing was done."""
        return self.outcome == (503, "overloaded") and "retry-after" in self.headers

    @property
    def where(self) -> str:
        """What to look for in the logs."""
        return f"(X-Request-ID {self.headers.get('x-request-id', 'unknown')})"

    def read(self, model: type[M]) -> M | None:
        """The document as the contract has it, or ``None`` if it does not fit."""
        try:
            return model.model_validate(self.document)
        except ValidationError:
            return None

    def equals(self, other: "Reply") -> bool:
        """Whether it has the same status and body. A refusal names the request that it answers, which may differ."""
        return self.status == other.status and _without_request_id(self) == _without_request_id(other)

    def __str__(self) -> str:
        return f"{self.status} {self.code or ''}".strip() if self.status else self.error


def _without_request_id(reply: Reply) -> object:
    if reply.status < 400 or not isinstance(reply.document, dict):
        return reply.document
    return {name: value for name, value in reply.document.items() if name != "request_id"}
