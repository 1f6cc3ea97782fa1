"""What schemathesis cannot know of the services, loaded by schemathesis.toml.

USER_TOKEN and SERVICE_TOKEN in the environment are the tokens that it shows, the second one to internal routes.
"""

import os
from typing import Any

import schemathesis
from schemathesis import AuthContext, AuthProvider, Case, CheckContext, HookContext, Response
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

# What JSON Schema and the parameters of OpenAPI have no words for.
_BEYOND_THE_DOCUMENT = (
    "order_id goes with no other parameter",
    "is not one that this service gave out",  # a cursor
    "sum up to",  # the lines of one SKU
)


@schemathesis.hook
def map_body(_: HookContext, body: Any) -> Any:
    """96.0 is an integer to JSON Schema; here it is refused, as money is counted and not measured."""
    if isinstance(body, dict):
        return {name: map_body(_, value) for name, value in body.items()}
    if isinstance(body, list):
        return [map_body(_, value) for value in body]
    return int(body) if isinstance(body, float) and body.is_integer() else body


@schemathesis.hook
def filter_failure(_: HookContext, failure: Failure, __: Case[Any], response: Response) -> bool:
    """A refusal of what fits the document is right where the document cannot say the rule."""
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 400:
        return True
    messages = [error["message"] for error in response.json()["errors"]]
    return not all(any(rule in message for rule in _BEYOND_THE_DOCUMENT) for message in messages)


@schemathesis.check
def problem_is_documented(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """The code of each problem is among those that the document names for that status."""
    described = case.operation.definition.raw["responses"].get(str(response.status_code))
    if described is not None and response.status_code >= 400:
        code = response.json()["code"]
        assert f"`{code}`" in described["description"], f"{code} is not documented for {response.status_code}"


class Tokens(AuthProvider[Any]):
    """The token that fits an operation."""

    def get(self, case: Case[Any], _: AuthContext) -> str:
        required = case.operation.definition.raw["security"]
        is_internal = any(scope.startswith("service:") for each in required for scope in each.get("token", ()))
        return os.environ["SERVICE_TOKEN" if is_internal else "USER_TOKEN"]

    def set(self, case: Case[Any], data: str, _: AuthContext) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


if "USER_TOKEN" in os.environ:
    schemathesis.auth(refresh_interval=None)(Tokens)
