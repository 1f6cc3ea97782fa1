"""The payment service's client of a gateway over HTTP: what decides something, and all that does not."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog.testing

from common import errors
from common.contracts.payments import RefundExceedsCharge
from payment_service.gateway import ChargeResult, GatewayUnavailable
from payment_service.gateway_http import HttpGateway
from payment_service.gateway_wire import ChargeNotFound, ChargeStatus

Call = Callable[[HttpGateway], Awaitable[Any]]


def charge(gateway: HttpGateway) -> Awaitable[Any]:
    return gateway.charge("o:charge", amount=700, currency="USD", payment_method="tok_ok", reference="o")


def find(gateway: HttpGateway) -> Awaitable[Any]:
    return gateway.find("o:charge")


def cancel(gateway: HttpGateway) -> Awaitable[Any]:
    return gateway.cancel("o:charge")


def refund(gateway: HttpGateway) -> Awaitable[Any]:
    return gateway.refund("o:refund:1", charge_key="o:charge", amount=700, currency="USD")


each_call = pytest.mark.parametrize("call", [charge, find, cancel, refund], ids=lambda call: call.__name__)


def http(status: int, body: str, content_type: str = "application/json") -> bytes:
    return (
        f"HTTP/1.1 {status} Whatever\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body.encode())}\r\n\r\n{body}"
    ).encode()


def problem(error: errors.ServiceError) -> bytes:
    return http(error.status, json.dumps(error.to_problem()), "application/problem+json")


@asynccontextmanager
async def gateway_that_answers(
    answer: bytes | None, heard: list[bytes] | None = None, *, timeout_s: float = 5
) -> AsyncIterator[HttpGateway]:
    """A gateway at a server that answers each request with these bytes and hangs up, or keeps silent."""

    gone = asyncio.Event()
    served: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        request = await reader.read(65_536)
        if heard is not None:
            heard.append(request)
        if answer is None:
            await gone.wait()
        with contextlib.suppress(ConnectionError):
            writer.write(answer or b"")
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    gateway = HttpGateway(f"http://127.0.0.1:{port}/", timeout_s=timeout_s, connections_max=4)
    try:
        yield gateway
    finally:
        gone.set()
        await gateway.aclose()
        server.close()
        await asyncio.gather(*filter(None, served))


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("call", [charge, find, cancel], ids=lambda call: call.__name__)
@pytest.mark.parametrize(
    ("body", "result"),
    [
        ('{"id": "1", "status": "approved", "reason": null}', ChargeResult(ChargeStatus.APPROVED)),
        ('{"id": "1", "status": "declined", "reason": "poor"}', ChargeResult(ChargeStatus.DECLINED, "poor")),
        ('{"id": "1", "status": "cancelled", "more": 1}', ChargeResult(ChargeStatus.CANCELLED)),
    ],
    ids=["approved", "declined", "cancelled"],
)
async def test_what_the_gateway_says_of_a_charge_decides(
    body: str, result: ChargeResult, call: Call, status: int
) -> None:
    """Whether it says so for the first time or again."""
    async with gateway_that_answers(http(status, body)) as gateway:
        assert await call(gateway) == result


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("Karte abgelehnt \u2013 Limit \u00fcberschritten", "Karte abgelehnt ? Limit ?berschritten"),
        ("line\\nfeed", "line?feed"),
        ("no" * 500, "no" * 32),
        ("", ""),
    ],
    ids=["umlauts", "control", "long", "empty"],
)
async def test_why_it_declines_fits_the_books_whatever_its_words(words: str, reason: str) -> None:
    """A decline that cannot be written would be no decline, and hold its stock for ever."""
    async with gateway_that_answers(http(201, f'{{"id": "1", "status": "declined", "reason": "{words}"}}')) as gateway:
        assert await charge(gateway) == ChargeResult(ChargeStatus.DECLINED, reason)


@pytest.mark.parametrize("status", ["declined", "cancelled"])
async def test_a_refund_that_the_gateway_does_not_make_is_not_made(status: str) -> None:
    """It stays open, and somebody must look."""
    with structlog.testing.capture_logs() as logs:
        async with gateway_that_answers(http(201, f'{{"id": "1", "status": "{status}"}}')) as gateway:
            with pytest.raises(GatewayUnavailable, match=status):
                await refund(gateway)
    assert [(one["log_level"], one["event"], one["key"]) for one in logs] == [
        ("error", "gateway_refused_the_refund", "o:refund:1")
    ]


async def test_a_charge_that_the_gateway_does_not_know() -> None:
    """Only its own word for it counts."""
    async with gateway_that_answers(problem(ChargeNotFound())) as gateway:
        assert await find(gateway) is None


SILENCES = {
    "nothing": b"",
    "half_a_head": b"HTTP/1.1 201 Cre",
    "half_a_body": http(201, '{"id": "1", "status": "approved"}')[:-9],
    "no_http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no_json": http(201, "approved"),
    "empty": http(201, ""),
    "another_status": http(201, '{"id": "1", "status": "processing"}'),
    "a_page": http(200, "<html>approved</html>", "text/html"),
    "a_redirect": b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    "404_of_a_proxy": http(404, "<html>not found</html>", "text/html"),
    "404_of_a_route": problem(errors.RouteNotFound()),
    "404_of_another_thing": problem(errors.NotFound()),
    "500": problem(errors.InternalError()),
    "502": http(502, "Bad Gateway", "text/plain"),
    "503": problem(errors.ServiceUnavailable()),
    "429": problem(errors.TooManyRequests()),
    "402_of_somebody": http(402, '{"declined": true}'),
    "400": problem(errors.InvalidRequest()),
    "422": problem(errors.IdempotencyMismatch()),
}


@each_call
@pytest.mark.parametrize("answer", SILENCES.values(), ids=SILENCES)
async def test_everything_else_is_unknown(answer: bytes, call: Call) -> None:
    """Neither a decline, nor a success, nor "there is no such charge"."""
    async with gateway_that_answers(answer) as gateway:
        with pytest.raises(GatewayUnavailable):
            await call(gateway)


@each_call
async def test_no_answer_in_time_is_unknown(call: Call) -> None:
    async with gateway_that_answers(None, timeout_s=0.2) as gateway:
        with pytest.raises(GatewayUnavailable, match=r"not answered within 0\.2 s"):
            await call(gateway)


@each_call
async def test_no_gateway_is_unknown(call: Call, unused_tcp_port: int) -> None:
    gateway = HttpGateway(f"http://127.0.0.1:{unused_tcp_port}", timeout_s=5, connections_max=4)
    with pytest.raises(GatewayUnavailable, match="the connection failed"):
        await call(gateway)
    await gateway.aclose()


@pytest.mark.parametrize("call", [charge, cancel, refund], ids=lambda call: call.__name__)
async def test_only_who_asks_is_told_that_there_is_no_charge(call: Call) -> None:
    """To who charges, cancels or refunds it is an answer that decides nothing."""
    async with gateway_that_answers(problem(ChargeNotFound())) as gateway:
        with pytest.raises(GatewayUnavailable):
            await call(gateway)


@pytest.mark.parametrize(
    ("call", "error"),
    [(charge, errors.IdempotencyMismatch()), (charge, errors.InvalidRequest()), (refund, RefundExceedsCharge())],
    ids=["key_reused", "invalid", "too_much"],
)
async def test_a_request_that_is_refused_raises_the_alarm(call: Call, error: errors.ServiceError) -> None:
    """Repeating it will not help: somebody must look. What may pass by itself is no alarm."""
    with structlog.testing.capture_logs() as logs:
        async with gateway_that_answers(problem(error)) as gateway:
            with pytest.raises(GatewayUnavailable):
                await call(gateway)
        async with gateway_that_answers(problem(errors.ServiceUnavailable())) as gateway:
            with pytest.raises(GatewayUnavailable):
                await call(gateway)
    alarms = [(one["log_level"], one["event"], one["code"]) for one in logs]
    assert alarms == [("error", "gateway_refused_the_request", error.code)]


@pytest.mark.parametrize(
    ("call", "line", "key", "body"),
    [
        (
            *(charge, b"POST /charges HTTP/1.1", b"o:charge"),
            b'{"amount":700,"currency":"USD","payment_method":"tok_ok","reference":"o"}',
        ),
        (find, b"GET /charges/o%3Acharge HTTP/1.1", None, b""),
        (cancel, b"POST /charges/o%3Acharge/cancel HTTP/1.1", None, b""),
        (
            *(refund, b"POST /refunds HTTP/1.1", b"o:refund:1"),
            b'{"charge_key":"o:charge","amount":700,"currency":"USD"}',
        ),
    ],
    ids=["charge", "find", "cancel", "refund"],
)
async def test_what_is_sent(call: Call, line: bytes, key: bytes | None, body: bytes) -> None:
    """One request, once, with its key: repeating is up to whoever knows what has been decided meanwhile."""
    heard: list[bytes] = []
    async with gateway_that_answers(b"", heard) as gateway:
        with pytest.raises(GatewayUnavailable):
            await call(gateway)
    [request] = heard
    head, _, sent = request.partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    assert (first, sent) == (line, body)
    assert [value for header in headers if header.startswith(b"Idempotency-Key: ") for value in header.split()[1:]] == (
        [key] if key else []
    )
