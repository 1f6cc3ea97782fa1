"""OpenAPI 3.1 made from the route table and the contracts, and Swagger UI that needs no network."""

import inspect
import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from common import context, errors
from common.contracts.access import FROM_TOKEN, SERVICE_SCOPE, Access, Service
from common.routes import Route

_REF = "#/components/schemas/{model}"
# What any call may answer, whatever it does.
_ALWAYS: tuple[type[errors.ServiceError], ...] = (
    errors.InvalidRequest,
    errors.InternalError,
    errors.ServiceUnavailable,
    errors.Overloaded,
    errors.DeadlineExceeded,
)
# Where callers are asked who they are.
_GUARDED: tuple[type[errors.ServiceError], ...] = (errors.Unauthenticated, errors.Forbidden)
_WITH_BODY: tuple[type[errors.ServiceError], ...] = (errors.PayloadTooLarge, errors.UnsupportedMediaType)

_PROBLEM_SCHEMA = {
    "title": "Problem",
    "description": "RFC 9457 problem details, with our members `code`, `retryable`, `request_id` and `error`.",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Stable name of the error."},
        "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
        "request_id": {"type": ["string", "null"]},
        "error": {"type": "string", "description": "The same as `detail`."},
        "retry_after_s": {"type": "number", "minimum": 0, "description": "Seconds to wait before trying again."},
        "errors": {
            "type": "array",
            "description": "Each field that was refused.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                "required": ["field", "message"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "code", "retryable", "request_id", "error"],
}

_REQUEST_ID = {
    context.REQUEST_ID_HEADER: {
        "description": "The id under which the request was logged: the caller's own, if it sent one.",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    }
}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before trying again, where that may help.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_CHALLENGE = {
    "WWW-Authenticate": {
        "description": "What kind of token is asked for, and what is wrong with the one that was sent (RFC 6750).",
        "required": True,
        "schema": {"type": "string", "pattern": "^Bearer"},
    }
}
_SECURITY_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token of the OpenID Connect issuer, with the scope that is named.",
    },
    "certificate": {"type": "mutualTLS", "description": "The certificate of a service, where TLS is configured."},
}


def document(title: str, routes: Sequence[Route], *, is_guarded: bool = False) -> dict[str, Any]:
    """The OpenAPI document of a service; ``is_guarded`` where callers are asked who they are."""
    bodies = {route.body for route in routes if route.body}
    replies = {model for route in routes for model in route.replies.values()}
    refs, definitions = models_json_schema(
        [(model, "validation") for model in sorted(bodies, key=_name)]
        + [(model, "serialization") for model in sorted(replies, key=_name)],
        ref_template=_REF,
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, refs, _ALWAYS + _GUARDED if is_guarded else _ALWAYS)
        paths.setdefault(route.path, {})[route.method.lower()] = operation | (
            {"security": _security(route.access)} if is_guarded else {}
        )
    schemes = {"securitySchemes": _SECURITY_SCHEMES} if is_guarded else {}
    schemas = definitions.get("$defs", {})
    if not is_guarded:
        _require_what_no_token_says(schemas.values())
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version("vv-ecommerce")},
        "paths": paths,
        "components": {"schemas": {**schemas, "Problem": _PROBLEM_SCHEMA}, **schemes},
    }


def _require_what_no_token_says(schemas: Iterable[dict[str, Any]]) -> None:
    for schema in schemas:
        for name, field in schema.get("properties", {}).items():
            if field.items() >= FROM_TOKEN.items():
                schema["properties"][name] = _inline(field, {})
                schema["required"] = [name, *schema.get("required", [])]


def _security(access: Access) -> list[dict[str, list[str]]]:
    """Any of these will do."""
    services = sorted(access.services - {Service.OPERATOR})
    scopes = [f"{SERVICE_SCOPE}{service}" for service in services] if access.scope is None else [access.scope.value]
    return [{"token": scopes}, {"certificate": []}]


def _name(model: type[BaseModel]) -> str:
    return model.__name__


def _operation(route: Route, refs: Any, always: Sequence[type[errors.ServiceError]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": {
            **{
                str(status): {
                    "description": (inspect.getdoc(model) or model.__name__).splitlines()[0],
                    "headers": _REQUEST_ID | _headers(route.reply_headers),
                    "content": {"application/json": {"schema": refs[model, "serialization"]}},
                }
                for status, model in route.replies.items()
            },
            **_problems(route, always),
        },
    }
    if route.body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": refs[route.body, "validation"]}},
        }
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters = []
    for model, place in ((route.query, "query"), (route.headers, "header")):
        if model is None:
            continue
        schema = model.model_json_schema()
        required = schema.get("required", [])
        for name, field in schema["properties"].items():
            in_path = f"{{{name}}}" in route.path
            parameters.append(
                {
                    "name": name,
                    "in": "path" if in_path else place,
                    "required": in_path or name in required,
                    "description": field.pop("description", ""),
                    "schema": _inline(field, schema.get("$defs", {})),
                }
            )
    return parameters


def _inline(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without references and without null: it is either given or left out."""
    options = [option for option in field.get("anyOf", []) if option != {"type": "null"}]
    merged = {key: value for key, value in field.items() if key not in ("anyOf", "default", "$ref")}
    for source in (*options, field):
        if "$ref" in source:
            merged |= definitions[source["$ref"].rsplit("/", 1)[1]]
        elif source is not field:
            merged |= source
    if field.get("default") is not None:
        merged["default"] = field["default"]
    return merged


def _problems(route: Route, always: Sequence[type[errors.ServiceError]]) -> dict[str, Any]:
    by_status: dict[int, list[type[errors.ServiceError]]] = {}
    for error in (*route.errors, *always, *(_WITH_BODY if route.body else ())):
        by_status.setdefault(error.status, []).append(error)
    return {
        str(status): {
            "headers": _REQUEST_ID | _problem_headers(route, found),
            "description": "; ".join(dict.fromkeys(f"`{error.code}`: {error.title()}" for error in found)),
            "content": {errors.PROBLEM_CONTENT_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
        }
        for status, found in sorted(by_status.items())
    }


def _problem_headers(route: Route, found: Sequence[type[errors.ServiceError]]) -> dict[str, Any]:
    """Of the headers of a success, a refusal may have those that fit it."""
    of_success = _headers(route.reply_headers) if set(found) & set(route.errors) else {}
    return {
        **{name: header | {"required": False} for name, header in of_success.items()},
        **(_RETRY_AFTER if any(error.retryable for error in found) else {}),
        **(_CHALLENGE if all(error.challenge for error in found) else {}),
    }


def _headers(model: type[BaseModel] | None) -> dict[str, Any]:
    schema = model.model_json_schema() if model else {"properties": {}}
    return {
        name: {
            "description": field.pop("description", ""),
            "required": name in schema.get("required", ()),
            "schema": _inline(field, schema.get("$defs", {})),
        }
        for name, field in schema["properties"].items()
    }


def add_docs(app: web.Application, openapi: dict[str, Any]) -> None:
    """Serve ``/openapi.json``, and ``/docs`` with assets from the package ``swagger-ui-py``."""
    text = json.dumps(openapi)
    page = _PAGE.replace("{title}", openapi["info"]["title"])

    async def openapi_json(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    async def docs(_: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    app.router.add_get("/openapi.json", openapi_json)
    app.router.add_get("/docs", docs)
    app.router.add_static("/docs/assets/", Path(str(files("swagger_ui") / "static")))


_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>{title}</title>
  <link rel="icon" href="/docs/assets/favicon-32x32.png">
  <link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
  <div id="swagger-ui"></div>
  <script src="/docs/assets/swagger-ui-bundle.js"></script>
  <script>SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true})</script>
</body>
</html>
"""
