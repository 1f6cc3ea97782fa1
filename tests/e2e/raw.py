"""HTTP over a plain socket, which sends whatever it is told to, and what every problem document must look like."""

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from common.errors import ERRORS_BY_CODE, PROBLEM_CONTENT_TYPE

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """What came back over the wire."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def fields(self) -> list[str]:
        """The fields that the problem document names."""
        return [error["field"] for error in self.json().get("errors", [])]


class Server:
    """One service. Each call has a connection of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self._address = (address.hostname, address.port)

    def get(self, path: str, **query: object) -> Answer:
        return self.call("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        return self.send_json("POST", path, body, headers)

    def patch(self, path: str, body: object) -> Answer:
        return self.send_json("PATCH", path, body)

    def send_json(self, method: str, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        """``bytes`` go out as they are, anything else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call(method, path, raw, {"Content-Type": "application/json", **(headers or {})})

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        length = {} if body is None else {"Content-Length": str(len(body))}
        lines = [f"{name}: {value}" for name, value in {**length, **(headers or {})}.items()]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", "Connection: close", *lines, "", ""])
        return self.send(head.encode("utf-8", "surrogateescape") + (body or b""))

    def send(self, raw: bytes) -> Answer:
        """Send the bytes, whatever they are, and read one answer."""
        with self.connect() as connection:
            # The server may have heard enough before it has heard all.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(raw)
            return read_answer(connection)

    def connect(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=_TIMEOUT_S)


def read_answer(connection: socket.socket) -> Answer:
    with contextlib.closing(http.client.HTTPResponse(connection)) as response:
        response.begin()
        return Answer(response.status, response.headers, response.read())


def assert_problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The answer is the problem document of that error, whole and consistent; it is returned."""
    assert (answer.status, answer.headers["Content-Type"]) == (status, PROBLEM_CONTENT_TYPE), answer.body[:500]
    problem: dict[str, Any] = answer.json()
    error_class = ERRORS_BY_CODE[code]
    assert (problem["code"], problem["status"], error_class.status) == (code, status, status), problem
    assert problem["retryable"] is error_class.retryable
    assert problem["title"] == error_class.title()
    assert problem["type"].endswith(code)
    assert problem["error"] == problem["detail"] != ""
    assert problem["request_id"]
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    # Nothing about what it is made of.
    assert answer.headers["Server"] in (None, "vv-ecommerce", "nginx")
    return problem


def assert_refused(answer: Answer, field: str | None = None) -> None:
    """A definite refusal: 4xx with a whole problem document, which names the field if one is given."""
    assert 400 <= answer.status < 500, (answer.status, answer.body[:500])
    problem = assert_problem(answer, answer.status, answer.json().get("code", "no problem document"))
    assert problem["retryable"] is False
    assert field is None or field in answer.fields, problem
    # pydantic's own sentences, and its patterns, are for programmers.
    assert "should" not in problem["detail"], problem
