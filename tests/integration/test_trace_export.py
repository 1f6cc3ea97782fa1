"""Spans reach a collector that is away for a while, or refuses them, or is given more than it takes."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from common import trace_export
from common.trace_export import Exporter
from common.tracing import Attributes, Recorder, Span

ServerFactory = Callable[[web.Application], Awaitable[TestServer]]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Answers with ``replies`` in turn, and with the last one for ever; what it took is in ``spans``."""

    def __init__(self, *replies: tuple[int, bytes]) -> None:
        self._replies = list(replies)
        self.spans: list[str] = []
        self.requests: list[ExportTraceServiceRequest] = []
        self.url = ""
        self.asked = 0
        self.takes_s = 0.0

    async def receive(self, request: web.Request) -> web.Response:
        assert request.headers["Content-Type"] == "application/x-protobuf"
        sent = ExportTraceServiceRequest.FromString(await request.read())
        self.asked += 1
        await asyncio.sleep(self.takes_s)
        status, body = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if status == 200:
            self.requests.append(sent)
            self.spans += [span.name for span in sent.resource_spans[0].scope_spans[0].spans]
        return web.Response(status=status, body=body)


OK = (200, b"")
PARTIAL = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(rejected_spans=2)).SerializeToString()
MakeCollector = Callable[..., Awaitable[Collector]]


@pytest.fixture
def collector(aiohttp_server: ServerFactory) -> MakeCollector:
    async def make(*replies: tuple[int, bytes]) -> Collector:
        made = Collector(*replies)
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/traces", made.receive)
        made.url = str((await aiohttp_server(app)).make_url("/"))
        return made

    return make


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_export, "_SEND_EVERY_S", 0.05)


def end_span(exporter: Exporter, name: str = "x") -> None:
    with Span(Recorder(exporter, 1.0), name, "CLIENT", None, {}):
        pass


def events(captured: list[structlog.typing.EventDict]) -> list[str]:
    return [entry["event"] for entry in captured]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


async def test_all_of_a_span_arrives(collector: MakeCollector) -> None:
    """Ids, times, what kind of work it was, attributes of each type, links, and that it failed."""
    at = await collector(OK)
    async with Exporter("order", at.url) as exporter:
        about: Attributes = {"text": "a", "number": 3, "share": 0.5, "is": True}
        link = f"00-{TRACE}-{'1' * 16}-01"
        span = Span(Recorder(exporter, 1.0), "GET /x", "CLIENT", f"00-{TRACE}-{PARENT}-01", about, [link])
        with contextlib.suppress(KeyError), span:
            await asyncio.sleep(0.02)
            raise KeyError("secret")
    [sent] = at.requests
    [of_service] = sent.resource_spans
    resource = {each.key: each.value for each in of_service.resource.attributes}
    assert resource["service.name"].string_value == "order"
    assert {"service.version", "host.name", "process.pid"} < resource.keys()
    [got] = of_service.scope_spans[0].spans
    assert (got.trace_id.hex(), got.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.traceparent == f"00-{TRACE}-{got.span_id.hex()}-01"
    assert (got.name, got.kind, got.status.code) == ("GET /x", 3, 2)
    assert 20e6 < got.end_time_unix_nano - got.start_time_unix_nano < 5e9
    assert [(each.trace_id.hex(), each.span_id.hex()) for each in got.links] == [(TRACE, "1" * 16)]
    attributes = {each.key: each.value for each in got.attributes}
    assert attributes["text"].string_value == "a"
    assert attributes["number"].int_value == 3
    assert attributes["share"].double_value == 0.5
    assert attributes["is"].bool_value is True
    assert attributes["error.type"].string_value == "KeyError"
    assert b"secret" not in sent.SerializeToString()


async def test_what_a_collector_cannot_take_now_is_sent_later(collector: MakeCollector) -> None:
    """Once and in order; that it was away is told once, not with each attempt."""
    at = await collector((503, b""), (503, b""), (429, b""), OK)
    with structlog.testing.capture_logs() as captured:
        async with Exporter("order", at.url) as exporter:
            for name in "abc":
                end_span(exporter, name)
            await until(lambda: at.spans)
    assert at.spans == ["a", "b", "c"]
    assert events(captured) == ["traces_not_sent", "traces_sent_again"]


async def test_what_a_collector_refuses_is_not_sent_again(collector: MakeCollector) -> None:
    """It would be refused again, and hold up what comes after it."""
    at = await collector((400, b"no"), OK)
    with structlog.testing.capture_logs() as captured:
        async with Exporter("order", at.url) as exporter:
            end_span(exporter, "refused")
            await until(lambda: captured)
            end_span(exporter, "taken")
    assert at.spans == ["taken"]
    assert [(entry["event"], entry["problem"], entry["spans"]) for entry in captured] == [
        ("traces_refused", "It answered 400.", 1)
    ]


async def test_a_refusal_is_told_once(collector: MakeCollector) -> None:
    """As long as its reason is the same: a wrong address would fill the log."""
    at = await collector((404, b""), (404, b""), (401, b""))
    with structlog.testing.capture_logs() as captured:
        async with Exporter("order", at.url) as exporter:
            for count in (1, 2, 3):
                end_span(exporter)
                async with asyncio.timeout(10):
                    while at.asked < count:
                        await asyncio.sleep(0.02)
    assert [entry["problem"] for entry in captured] == ["It answered 404.", "It answered 401."]


@pytest.mark.parametrize("body", [b"{}", b"<html>", b"\xff"])
async def test_a_reply_that_is_no_protobuf(collector: MakeCollector, body: bytes) -> None:
    """What answers so has taken them for all that we know, and the next ones are sent, too."""
    at = await collector((200, body))
    with structlog.testing.capture_logs() as captured:
        async with Exporter("order", at.url) as exporter:
            end_span(exporter, "first")
            await until(lambda: at.spans)
            end_span(exporter, "second")
    assert at.spans == ["first", "second"]
    assert captured == []


async def test_an_error_of_ours_costs_its_spans_alone(collector: MakeCollector) -> None:
    """Such as an attribute that the protocol cannot say."""
    at = await collector(OK)
    with structlog.testing.capture_logs() as captured:
        async with Exporter("order", at.url) as exporter:
            with Span(Recorder(exporter, 1.0), "x", "CLIENT", None, {"too much": 2**64}):
                pass
            await until(lambda: captured)
            end_span(exporter, "next")
    assert at.spans == ["next"]
    assert events(captured) == ["internal_error"]


async def test_what_is_on_its_way_at_the_end_is_sent_once(collector: MakeCollector) -> None:
    """Ending waits for the answer, instead of asking again."""
    at = await collector(OK)
    at.takes_s = 0.3
    async with Exporter("order", at.url) as exporter:
        end_span(exporter)
        await until(lambda: at.asked)
    assert at.spans == ["x"]


async def test_what_is_lost_at_the_end_is_told() -> None:
    """How many spans, when there is no collector."""
    with structlog.testing.capture_logs() as captured:
        async with Exporter("order", "http://127.0.0.1:9") as exporter:
            end_span(exporter)
            end_span(exporter)
    assert events(captured) == ["traces_not_sent", "traces_lost"]
    assert captured[-1]["spans"] == 2


async def test_a_collector_takes_some(collector: MakeCollector) -> None:
    """The rest is told, and not sent again: https://opentelemetry.io/docs/specs/otlp/#partial-success-1"""
    at = await collector((200, PARTIAL))
    with structlog.testing.capture_logs() as captured:
        async with Exporter("order", at.url) as exporter:
            end_span(exporter)
            end_span(exporter)
            end_span(exporter)
    assert len(at.spans) == 3
    assert [(entry["event"], entry["spans"]) for entry in captured] == [("traces_refused", 2)]


async def test_what_waits_is_bounded(collector: MakeCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are kept, and how many were lost is told when the collector is there again."""
    monkeypatch.setattr(trace_export, "_WAITING_MAX", 5)
    at = await collector((503, b""), OK)
    with structlog.testing.capture_logs() as captured:
        async with Exporter("order", at.url) as exporter:
            for number in range(8):
                end_span(exporter, str(number))
            await until(lambda: at.spans)
    assert at.spans == ["0", "1", "2", "3", "4"]
    assert [entry.get("spans_lost") for entry in captured] == [None, 3]


async def test_many_are_sent_in_parts(collector: MakeCollector) -> None:
    """A collector that was away does not get all at once what has gathered."""
    at = await collector(OK)
    async with Exporter("order", at.url) as exporter:
        for _ in range(2_500):
            end_span(exporter)
    assert len(at.spans) == 2_500
    assert [len(each.resource_spans[0].scope_spans[0].spans) for each in at.requests] == [200] * 12 + [100]
