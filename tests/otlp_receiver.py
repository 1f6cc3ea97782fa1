"""``python -m tests.otlp_receiver PORT``: an OpenTelemetry collector, as far as traces need one (OTLP over HTTP).

It decodes what the services send with the protocol's own schema, and tells it at ``GET /spans``.
"""

import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from pydantic import TypeAdapter

from tests.processes import free_port

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Span:
    """A span as it was received; ids in hexadecimal, ``parent`` empty for a root, times in nanoseconds."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    kind: int
    begin: int
    end: int
    links: list[tuple[str, str]]
    attributes: dict[str, str | int | float | bool | None]
    has_failed: bool


_SPANS = TypeAdapter(list[Span])


def make_app() -> web.Application:
    spans: list[Span] = []

    async def receive(request: web.Request) -> web.Response:
        spans.extend(_decoded(ExportTraceServiceRequest.FromString(await request.read())))
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    async def tell(_: web.Request) -> web.Response:
        return web.Response(body=_SPANS.dump_json(spans), content_type="application/json")

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/traces", receive)
    app.router.add_get("/spans", tell)
    return app


def _decoded(request: Any) -> list[Span]:
    return [
        Span(
            service=next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name"),
            name=span.name,
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            kind=span.kind,
            begin=span.start_time_unix_nano,
            end=span.end_time_unix_nano,
            links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
            attributes={a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes},
            has_failed=span.status.code == 2,
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


class Receiver:
    """The process."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.otlp_receiver", self.url.rpartition(":")[2]]
        self._process = subprocess.Popen(command, cwd=_ROOT)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.spans()
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)

    def spans(self) -> list[Span]:
        """What has come so far."""
        with urllib.request.urlopen(f"{self.url}/spans", timeout=10) as reply:
            return _SPANS.validate_json(reply.read())


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
