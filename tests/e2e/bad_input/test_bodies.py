"""Bodies and framing: what is no JSON, too long, packed, broken off or no HTTP gets a 4xx, and nothing changes."""

import asyncio
import gzip
import json
import zlib

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

import inventory_service.app
import inventory_service.settings
from common.routes import BATCH_BODY_BYTES_MAX, BODY_BYTES_MAX
from tests.conftest import log_of
from tests.e2e.bad_input.forms import FORMS, WITH_BODY, each_with_body, fuzzed, send
from tests.e2e.conftest import Servers, wait_until
from tests.e2e.raw import Answer, assert_problem, assert_refused
from tests.processes import Services
from tests.route_tables import Endpoint

# Whole bodies that are wrong for every endpoint.
BAD_BODIES = {
    "empty": b"",
    "blank": b" \n",
    "null": b"null",
    "array": b"[]",
    "string": b'"x"',
    "number": b"1",
    "nan": b"NaN",
    "unfinished": b'{"sku": "x"',
    "two objects": b"{} {}",
    "trailing comma": b'{"sku": "x",}',
    "brackets": b"[" * 60_000,
    "objects": b'{"a":' * 12_000,
    "invalid utf-8": b'{"sku": "\xff\xfe"}',
    "overlong utf-8": b'{"sku": "\xc0\xaf"}',
    "surrogate in utf-8": b'{"sku": "\xed\xa0\x80"}',
    "utf-16": '{"sku": "x"}'.encode("utf-16"),
    "utf-32": '{"sku": "x"}'.encode("utf-32-be"),
    "byte order mark": b'\xef\xbb\xbf{"sku": "x"}',
    "NUL": b"\0",
    "form": b"sku=x&quantity=1",
    "long number": b"9" * 60_000,
    "many fields": json.dumps(dict.fromkeys(map(str, range(4_000)))).encode(),
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_body_is_refused_everywhere(body: bytes, servers: Servers) -> None:
    """Empty, no object, no JSON, no UTF-8, 60,000 brackets: every endpoint that takes a body says no."""
    for endpoint in WITH_BODY:
        assert_problem(send(servers, endpoint, body), 400, "invalid_request")


@each_with_body
@pytest.mark.usefixtures("unchanged")
def test_hundred_thousand_brackets_are_refused(endpoint: Endpoint, servers: Servers) -> None:
    """Also where a body may be long enough for them."""
    for brackets in (b"[" * 100_000, b'{"items":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a":' * 100_000):
        assert_refused(send(servers, endpoint, brackets))


@each_with_body
@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/jsonp",
        "json",
        "*/*",
        "",
        "\0",
        "application/json; charset=utf-16",
        "application/json; charset=latin1",
        "application/json; charset=bogus",
        "application/json; charset=\udcff",
        "application/json; charset=" + "x" * 4_000,
        None,
    ],
    ids=lambda content_type: repr(content_type)[:40],
)
def test_wrong_content_type_is_refused(endpoint: Endpoint, content_type: str | None, servers: Servers) -> None:
    """Only application/json in UTF-8 is taken; a bogus charset is no crash."""
    body = json.dumps(FORMS[str(endpoint)][0]).encode()
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = servers.of(endpoint.service).call(endpoint.route.method, endpoint.route.path, body, headers)
    assert_problem(answer, *((400, "malformed_http") if content_type == "\0" else (415, "unsupported_media_type")))


@each_with_body
@pytest.mark.usefixtures("unchanged")
def test_body_over_the_limit_is_413(endpoint: Endpoint, servers: Servers) -> None:
    """64 KiB (1 MiB for batches), with Content-Length or chunked without one; a body of just that size is read."""
    limit = endpoint.route.body_bytes_max
    assert limit == (BATCH_BODY_BYTES_MAX if endpoint.route.path.endswith("/batch") else BODY_BYTES_MAX)
    assert_problem(send(servers, endpoint, b" " * limit), 400, "invalid_request")
    assert_problem(send(servers, endpoint, b" " * (limit + 1)), 413, "payload_too_large")
    assert_problem(send_chunked(servers, endpoint, b" " * limit), 400, "invalid_request")
    assert_problem(send_chunked(servers, endpoint, b" " * (limit + 1)), 413, "payload_too_large")
    assert_problem(send_chunked(servers, endpoint, b" " * (limit + 200_000)), 413, "payload_too_large")


@each_with_body
@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bomb_is_413(endpoint: Endpoint, encoding: str, servers: Servers) -> None:
    """A few kilobytes that unpack to far more than the limit are too large, however small they arrive."""
    blanks = b" " * (2 * BATCH_BODY_BYTES_MAX)
    bomb = gzip.compress(blanks) if encoding == "gzip" else zlib.compress(blanks)
    assert len(bomb) < BODY_BYTES_MAX
    answer = send(servers, endpoint, bomb, {"Content-Encoding": encoding})
    assert_problem(answer, 413, "payload_too_large")


@each_with_body
@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "bogus", "gzip, gzip"])
def test_body_that_is_not_what_its_encoding_says_is_refused(
    endpoint: Endpoint, encoding: str, servers: Servers
) -> None:
    """A Content-Encoding that does not fit the body, or that nobody knows, is a mistake of the caller."""
    assert_refused(send(servers, endpoint, b"this is not compressed", {"Content-Encoding": encoding}))


@pytest.mark.parametrize(
    "framing",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: bogus\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Content-Length: -1\r\n\r\n{}",
        b"Content-Length: x\r\n\r\n{}",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n{}",
        b"X-Bad\x00Name: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"X-Long: " + b"x" * 20_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
        b"".join(b"X-%d: x\r\n" % n for n in range(5_000)) + b"Content-Length: 2\r\n\r\n{}",
    ],
    ids=lambda framing: repr(framing[:36]),
)
@pytest.mark.usefixtures("unchanged")
def test_broken_framing_is_refused(framing: bytes, servers: Servers) -> None:
    """Bytes that are not HTTP get a problem document, too, from every service."""
    for server, path in ((servers.order, b"/orders"), (servers.payment, b"/payments")):
        head = b"POST " + path + b" HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Type: application/json\r\n"
        assert_refused(server.send(head + framing))


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /inventory/sku?sku=none HTTP/1.1\nHost: t\n\n",
        b"GET /inventory/sku?sku=none HTTP/1.1\r\nHost: t\nX: y\r\n\r\n",
    ],
)
def test_bare_line_feeds_are_refused(raw: bytes, servers: Servers) -> None:
    """What one parser takes for the end of a line, and another for a part of it, is taken for nothing."""
    assert_problem(servers.inventory.send(raw), 400, "malformed_http")


@pytest.mark.parametrize("line", [b"\0\0\0", b"GET", b"GET / HTTP/9.9", b"G\x00T / HTTP/1.1", b"\x16\x03\x01\x02\x00"])
def test_what_is_no_request_line_is_refused(line: bytes, servers: Servers) -> None:
    """A TLS greeting or line noise on the port of a service is answered and the connection closed."""
    assert_problem(servers.inventory.send(line + b"\r\n\r\n"), 400, "malformed_http")


def test_body_that_breaks_off_is_the_callers_mistake(services: Services, servers: Servers) -> None:
    """Who hangs up in the middle of a body is answered with 400, though nobody hears it, and not with a 500."""
    head = (
        b"POST /inventory/create HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nX-Request-ID: broke-off\r\n"
    )
    with servers.inventory.connect() as connection:
        connection.sendall(head + b"Content-Length: 100\r\n\r\n{")
    wait_until(lambda: '"request_id": "broke-off"' in log_of(services.inventory.log))
    [line] = [line for line in log_of(services.inventory.log).splitlines() if '"broke-off"' in line]
    assert json.loads(line)["status"] == 400


@pytest.mark.parametrize("rest", [b"Content-Length: 9\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"])
async def test_body_that_never_ends_is_refused_after_a_while(rest: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that stops in the middle of a body, or goes on with nonsense, does not hold its place for ever."""
    monkeypatch.setattr("common.web.BODY_WITHIN_S", 0.3)
    configured = inventory_service.settings.Settings(database_url=SecretStr("mysql://u@127.0.0.1/d"))
    runner = web.AppRunner(inventory_service.app.make_app(configured), lingering_time=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    writer.write(b"POST /inventory/create HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n" + rest)
    await asyncio.sleep(0.1)
    writer.write(b"zz\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()
    await runner.cleanup()


@each_with_body
@fuzzed
@given(body=st.binary(max_size=200) | st.binary(max_size=50).map(lambda noise: b'{"sku": "' + noise + b'"}'))
def test_no_bytes_are_a_5xx(endpoint: Endpoint, servers: Servers, body: bytes) -> None:
    """Whatever bytes are sent as JSON: the answer is a 4xx."""
    assert_refused(send(servers, endpoint, body))


def send_chunked(servers: Servers, endpoint: Endpoint, body: bytes) -> Answer:
    """In chunks of 10,000 bytes, without saying how many there will be."""
    chunks = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    head = f"{endpoint.route.method} {endpoint.route.path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
    headers = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return servers.of(endpoint.service).send((head + headers).encode() + framed)
