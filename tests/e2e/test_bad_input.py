"""Bad input gets a 4xx problem document that names the field, never a 500, and changes nothing."""

import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

import inventory_service.app
import inventory_service.settings
from common.contracts.base import AMOUNT_MAX, BATCH_MAX, LINES_MAX, PAGE_MAX, QUANTITY_MAX, STOCK_MAX
from common.routes import BATCH_BODY_BYTES_MAX, BODY_BYTES_MAX
from tests.conftest import log_of
from tests.e2e.conftest import Books, Servers, wait_until
from tests.e2e.raw import Answer, assert_problem, assert_refused
from tests.processes import Services
from tests.route_tables import ENDPOINTS, Endpoint

ORDER_ID = "01890000-0000-7000-8000-000000000000"
SKU = "no-such-sku"
JSON = {"Content-Type": "application/json"}

_ORDER = {"user_id": "u", "total_amount": 1, "currency": "USD", "payment_method": "tok_ok"}
_CHARGE = {
    "order_id": ORDER_ID,
    "amount": 1,
    "currency": "USD",
    "payment_method": "tok_ok",
    "user_id": "u",
    "trace": f"00-{'a' * 32}-{'b' * 16}-01",
}
_LINES = [{"sku": SKU, "quantity": 1}]
_TAKE_ONE = {"sku": SKU, "quantity": 1, "request_id": "r", "order_id": ORDER_ID}
_TAKE_SOME = {"items": _LINES, "request_id": "r", "order_id": ORDER_ID}

# What each endpoint takes, in each of its forms. None of it exists, so that nothing happens even if it is accepted.
FORMS: Mapping[str, Sequence[dict[str, Any]]] = {
    "POST /orders": [{**_ORDER, "sku": SKU, "quantity": 1}, {**_ORDER, "items": _LINES}],
    "PATCH /orders": [{"order_id": ORDER_ID, "status": "cancelled"}],
    "POST /inventory/create": [{"product_id": "p", "sku": SKU, "quantity": 0}],
    "POST /inventory/decrease": [_TAKE_ONE, _TAKE_SOME],
    "POST /inventory/decrease/batch": [{"items": [_TAKE_ONE]}, {"items": [_TAKE_SOME]}],
    "POST /inventory/increase": [{"sku": SKU, "quantity": 1, "request_id": "r"}],
    "POST /inventory/rollback": [{"request_id": "r"}],
    "POST /inventory/rollback/batch": [{"items": [{"request_id": "r"}]}],
    "POST /payments": [_CHARGE],
    "POST /payments/batch": [{"items": [_CHARGE]}],
    "POST /payments/refund": [{"order_id": ORDER_ID, "amount": 1, "request_id": "r"}],
    "POST /payments/cancel": [{"order_id": ORDER_ID}],
}

# Values of a field, as JSON text. Some of it no JSON parser should accept, so that there is no field to name.
NOT_JSON = [
    '"\\ud800"',
    '"x\\udc00\\ud800"',
    '"\\u12"',
    "'x'",
    "01",
    "+1",
    "0x10",
    "1_000",
    "tru",
    '"\n"',
    "[" * 1_000 + "]" * 1_000,
    '{"a":' * 1_000 + "1" + "}" * 1_000,
    "9" * 5_000,
    "-" + "9" * 5_000,
]
NOT_TEXT = ["1", "1.5", "true", "[]", "{}", "NaN", "-Infinity", "1e400", "9" * 4_000]
BAD_TEXT = [
    *NOT_TEXT,
    *map(
        json.dumps,
        ["", " ", " x", "x ", "\0", "x\0y", "é", "x\u0301", "x\n", "x\ny", "x\r\nSet-Cookie: a=b", "\t"],
    ),
    *map(json.dumps, ["x\u200b", "x\u00a0", "\uff53\uff4b\uff55", "x\x7f", "x\x1b[2J", "x" * 129, "x" * 5_000]),
]
BAD_UUID = [
    *BAD_TEXT,
    *map(json.dumps, [ORDER_ID[:-1], f"{ORDER_ID}0", ORDER_ID.replace("-", ""), f"{{{ORDER_ID}}}", "x" * 36]),
    *map(json.dumps, [ORDER_ID.replace("0189", "ABCD"), f"urn:uuid:{ORDER_ID}", f"{ORDER_ID}\n", "' OR 1=1 -- "]),
]
BAD_CURRENCY = [*BAD_TEXT, *map(json.dumps, ["usd", "US", "USDD", "U$D", "USD\n", "ÜSD"])]
NOT_INTEGERS = [
    *('"1"', '""', "true", "false", "1.5", "1.0", "1e2", "[]", "[1]", "{}", "NaN", "Infinity", "1e400", "-1e400"),
    *(str(2**63), str(-(2**63) - 1), str(2**64 + 1), "9" * 4_000, "-1"),
]
BAD_QUANTITY = [*NOT_INTEGERS, "0", "-0", str(QUANTITY_MAX + 1)]
BAD_STOCK = [*NOT_INTEGERS, str(STOCK_MAX + 1)]
BAD_AMOUNT = [*NOT_INTEGERS, "0", str(AMOUNT_MAX + 1)]
BAD_LIST = ["[]", "{}", '"x"', "1", "true", "[null]", "[1]", "[[]]", '["x"]', "[{}]"]
BAD_VALUES: Mapping[str | int, Sequence[str]] = {
    **dict.fromkeys(("user_id", "sku", "product_id", "request_id", "payment_method"), BAD_TEXT),
    **dict.fromkeys(("total_amount", "amount"), BAD_AMOUNT),
    "order_id": BAD_UUID,
    "trace": [
        *BAD_TEXT,
        *map(json.dumps, ["00-0-0-01", f"00-{'A' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-01\n"]),
    ],
    "currency": BAD_CURRENCY,
    "status": [*NOT_TEXT, "null", json.dumps("x" * 65)],
    "quantity": BAD_QUANTITY,
    "items": BAD_LIST,
}

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

ANY_ENDPOINT = {str(endpoint): endpoint for endpoint in ENDPOINTS}
WITH_BODY = [endpoint for endpoint in ENDPOINTS if endpoint.route.body]
READING = [endpoint for endpoint in ENDPOINTS if endpoint.route.method == "GET"]
each_with_body = pytest.mark.parametrize("endpoint", WITH_BODY, ids=str)
fuzzed = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _nothing_is_left_to_recovery(books: Books) -> None:
    """What earlier tests left to recovery must not change the books meanwhile."""
    books.settle()


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every field in a body, those of its items included."""
    if path and isinstance(path[-1], str):
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def with_value(body: dict[str, Any], path: tuple[str | int, ...], text: str) -> bytes:
    """The body as JSON, with ``text`` as it is in the place of one value."""
    changed: Any = deepcopy(body)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "@@"
    return json.dumps(changed).replace('"@@"', text).encode()


FIELDS = [
    pytest.param(ANY_ENDPOINT[name], body, path, id=f"{name} {'.'.join(map(str, path))}-{form}")
    for name, forms in FORMS.items()
    for form, body in enumerate(forms)
    for path in places(body)
]


def test_every_endpoint_with_a_body_is_tried() -> None:
    """No endpoint that takes a body is missing from the tables above."""
    assert FORMS.keys() == {str(endpoint) for endpoint in WITH_BODY}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("endpoint", "body", "path"), FIELDS)
def test_bad_value_is_refused_and_its_field_named(
    endpoint: Endpoint, body: dict[str, Any], path: tuple[str | int, ...], servers: Servers
) -> None:
    """Wrong types, bools as ints, numbers as strings, NaN, 1e400, 5000 digits, NUL, blanks, accents, CRLF, bounds."""
    values = BAD_STOCK if str(endpoint) == "POST /inventory/create" and path == ("quantity",) else BAD_VALUES[path[-1]]
    for value in values:
        answer = send(servers, endpoint, with_value(body, path, value))
        assert_problem(answer, 400, "invalid_request")
        named = ".".join(map(str, path))
        assert any(field == named or field.startswith(f"{named}.") for field in answer.fields), (value[:60], answer)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("endpoint", "body", "path"), FIELDS)
def test_what_is_not_json_is_refused(
    endpoint: Endpoint, body: dict[str, Any], path: tuple[str | int, ...], servers: Servers
) -> None:
    """Lone surrogates, deep brackets and the like in the place of a value; then the body is what is wrong."""
    for value in NOT_JSON:
        answer = send(servers, endpoint, with_value(body, path, value))
        assert_problem(answer, 400, "invalid_request")
        assert set(answer.fields) <= {"body", ".".join(map(str, path))}, (value[:60], answer)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("endpoint", "body", "path"), FIELDS)
def test_missing_unknown_and_repeated_fields_are_refused(
    endpoint: Endpoint, body: dict[str, Any], path: tuple[str | int, ...], servers: Servers
) -> None:
    """A field that is unknown, at any depth, or given twice, is refused by its name."""
    *parents, name = path
    prefix = "".join(f"{part}." for part in parents)
    unknown = with_value(body, path, '1, "surprise": 1')
    assert f"{prefix}surprise" in send(servers, endpoint, unknown).fields
    value: Any = body
    for key in path:
        value = value[key]
    repeated = send(servers, endpoint, with_value(body, path, f'{json.dumps(value)}, "{name}": {json.dumps(value)}'))
    assert_problem(repeated, 400, "invalid_request")
    assert repeated.fields == [name]


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


def test_unknown_paths_and_methods_are_problem_documents(servers: Servers) -> None:
    """404 and 405 look like every other error, and 405 says what is allowed."""
    assert_problem(servers.order.get("/nothing/here"), 404, "route_not_found")
    assert_problem(servers.order.get("/%ff%00"), 404, "route_not_found")
    answer = servers.order.call("DELETE", "/orders")
    assert_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(",")) == {"GET", "PATCH", "POST"}


TEXT_IN_URLS = [
    "",
    "%00",
    "x%00",
    "%20x",
    "x%20",
    "+",
    "%ff",
    "%C0%AF",
    "%ED%A0%80",
    "%C3%A9",
    "x%0d%0aY:%20z",
    "x" * 129,
]
BAD_QUERIES = {
    "order_id": [*TEXT_IN_URLS, "x", ORDER_ID[1:], ORDER_ID.replace("0189", "ABCD"), "null", "' OR '1'='1"],
    "user_id": TEXT_IN_URLS,
    "sku": TEXT_IN_URLS,
    "product_id": TEXT_IN_URLS,
    "status": [*TEXT_IN_URLS, "bogus", "COMPLETED", "completed ", "null", "1"],
    "limit": [
        *TEXT_IN_URLS,
        "0",
        "-1",
        "1.5",
        "x",
        "1e2",
        "NaN",
        "true",
        "null",
        str(PAGE_MAX + 1),
        "9" * 5_000,
        "0x10",
    ],
    "cursor": [*TEXT_IN_URLS, "!", "=", "A", "AAAA", "_____w", "x" * 201, "%2e%2e", "a.b", "a=="],
}
# Cursors that are well-formed and that no page gave out.
BAD_CURSORS = [
    *("", " ", "x", "-", "1.5", "1 OR 1=1", "NaN", "\0", "é", "-1", "0", "01", " 7", "1_0", "9" * 140, str(2**63)),
    *(ORDER_ID[:-1], f"{{{ORDER_ID}}}", ORDER_ID.replace("-", ""), ORDER_ID.replace("0189", "ABCD")),
]


@pytest.mark.parametrize(
    ("endpoint", "field"),
    [
        pytest.param(endpoint, field, id=f"{endpoint} {field}")
        for endpoint in READING
        if endpoint.route.query
        for field in endpoint.route.query.model_fields
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_bad_parameter_is_refused_and_named(endpoint: Endpoint, field: str, servers: Servers) -> None:
    """Each query or path parameter: empty, blanks, NUL, no UTF-8, accents, line breaks, too long, wrong type."""
    for value in BAD_QUERIES[field]:
        text = quote(value, safe="%+")
        in_path = f"{{{field}}}" in endpoint.route.path
        if in_path and not text:
            continue
        others = f"&sku={SKU}" if endpoint.route.path == "/inventory/ledger" and field != "sku" else ""
        asked = endpoint.route.path.format(**{field: text}) if in_path else f"{endpoint.route.path}?{field}={text}"
        answer = servers.of(endpoint.service).get(asked + others)
        assert_problem(answer, 400, "invalid_request")
        assert field in answer.fields, (value[:60], answer)


@pytest.mark.parametrize("position", BAD_CURSORS, ids=lambda position: repr(position)[:20])
def test_cursor_that_no_page_gave_out_is_refused(position: str, servers: Servers) -> None:
    """A cursor is opaque: what only looks like one is refused by name."""
    cursor = base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")
    for answer in (
        servers.order.get("/orders", cursor=cursor),
        servers.inventory.get("/inventory/ledger", sku=SKU, cursor=cursor),
    ):
        assert_problem(answer, 400, "invalid_request")
        assert answer.fields == ["cursor"]


def test_cursor_of_another_list_is_refused(servers: Servers) -> None:
    """An order's cursor says nothing about a ledger, nor the other way round."""
    of_orders, of_ledger = (base64.urlsafe_b64encode(each.encode()).decode().rstrip("=") for each in (ORDER_ID, "7"))
    assert servers.order.get("/orders", cursor=of_ledger).fields == ["cursor"]
    assert servers.inventory.get("/inventory/ledger", sku=SKU, cursor=of_orders).fields == ["cursor"]


def test_one_order_is_asked_for_by_nothing_but_its_id(servers: Servers) -> None:
    """A filter that goes with it would be ignored, and its caller deceived."""
    order_id = servers.order.post("/orders", {"user_id": "ann", "sku": servers.new_sku(), "total_amount": 7}).json()[
        "order_id"
    ]
    assert servers.order.get("/orders", order_id=order_id).status == 200
    for other in ({"user_id": "bob"}, {"status": "failed"}, {"limit": "1"}):
        assert_refused(servers.order.get("/orders", order_id=order_id, **other))


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
@pytest.mark.usefixtures("unchanged")
def test_unknown_and_repeated_parameters_are_refused(endpoint: Endpoint, servers: Servers) -> None:
    """A parameter that is misspelt or given twice is never silently ignored, also where there is a body."""
    path = endpoint.route.path.replace("{order_id}", ORDER_ID)
    body = json.dumps(FORMS[str(endpoint)][0]).encode() if endpoint.route.body else None
    for query, field in (
        ("surprise=1", "surprise"),
        ("x" * 70 + "=", "x" * 64),
        ("=1", ""),
        ("__class__=1", "__class__"),
    ):
        answer = servers.of(endpoint.service).call(endpoint.route.method, f"{path}?{query}", body, JSON)
        assert_problem(answer, 400, "invalid_request")
        assert answer.fields == [field]
    for field in (
        () if endpoint.route.query is None or "{" in endpoint.route.path else endpoint.route.query.model_fields
    ):
        answer = servers.of(endpoint.service).get(f"{path}?{field}=5&{field}=5")
        assert_problem(answer, 400, "invalid_request")
        assert answer.fields == [field]


@pytest.mark.parametrize("length", [9_000, 100_000, 2_000_000])
def test_huge_query_strings_are_refused(length: int, servers: Servers) -> None:
    """2 MB of query string, as a parameter, as many of them, or as a path, is answered with 400."""
    for path in ("/orders?user_id=" + "x" * length, "/orders?" + "a=1&" * (length // 4), "/orders/" + "x" * length):
        assert_problem(servers.order.get(path), 400, "malformed_http")


@pytest.mark.parametrize(
    "key",
    ["", " ", "x" * 129, "é", "\udcff", "a\tb", "x" * 7_000],
    ids=lambda key: repr(key)[:12],
)
@pytest.mark.usefixtures("unchanged")
def test_bad_idempotency_key_is_refused(key: str, servers: Servers) -> None:
    """The header is held to the same rules as a field, and named like one."""
    answer = servers.order.post("/orders", FORMS["POST /orders"][0], {"Idempotency-Key": key})
    assert_problem(answer, 400, "invalid_request")
    assert answer.fields == ["Idempotency-Key"]


@pytest.mark.usefixtures("unchanged")
def test_two_idempotency_keys_are_refused(servers: Servers) -> None:
    """Nobody can tell which of two keys counts."""
    answer = servers.order.post("/orders", FORMS["POST /orders"][0], {"Idempotency-Key": "a", "idempotency-key": "b"})
    assert_problem(answer, 400, "invalid_request")
    assert answer.fields == ["Idempotency-Key"]


@pytest.mark.parametrize("header", ["X-Deadline-Ms", "X-Request-ID", "traceparent", "Accept", "Accept-Encoding"])
def test_nonsense_in_headers_is_ignored(header: str, servers: Servers) -> None:
    """What a caller puts into the headers that the services read never breaks a request."""
    for value in (
        "",
        "-1",
        "NaN",
        "9" * 20,
        "9" * 4_000,
        "9" * 5_000,
        "x" * 5_000,
        "\udcff",
        "é",
        "1.5",
        "00-zz-zz-00",
    ):
        assert_problem(
            servers.inventory.call("GET", "/inventory/sku?sku=none", headers={header: value}), 404, "sku_not_found"
        )


@pytest.mark.parametrize(
    "two", [("a", "A"), ("x", "x."), ("ab", "a b"), ("n1", "n01")], ids=lambda two: f"{two[0]!r} and {two[1]!r}"
)
def test_skus_that_look_alike_are_distinct(two: tuple[str, str], servers: Servers) -> None:
    """SKUs that differ only by case, a blank inside or a character have a stock each."""
    prefix = uuid4().hex
    skus = [f"{prefix}{each}" for each in two]
    for quantity, sku in enumerate(skus, start=1):
        created = servers.inventory.post("/inventory/create", {"product_id": "p", "sku": sku, "quantity": quantity})
        assert created.status == 201
    assert [servers.inventory.get("/inventory/sku", sku=sku).json()["quantity"] for sku in skus] == [1, 2]


@pytest.mark.parametrize("tail", [" ", "\t", "\u00a0", "\0", "\u0301", "é"])
def test_skus_with_blanks_at_the_end_or_accents_are_refused(tail: str, servers: Servers) -> None:
    """`abc`, `abc ` and `abć` cannot be one SKU, as they would be in a column with MySQL's default collation."""
    sku = servers.new_sku()
    answer = servers.inventory.post("/inventory/create", {"product_id": "p", "sku": sku + tail, "quantity": 1})
    assert_problem(answer, 400, "invalid_request")
    assert answer.fields == ["sku"]


@pytest.mark.parametrize("service", ["order", "inventory"])
def test_lines_of_one_sku_are_summed(service: str, servers: Servers) -> None:
    """A cart with the same SKU three times is a cart with all of them in one line."""
    sku = servers.new_sku(10)
    lines = [{"sku": sku, "quantity": quantity} for quantity in (1, 2, 3)]
    if service == "order":
        answer = servers.order.post("/orders", {"user_id": "u", "items": lines, "total_amount": 1})
        assert (answer.status, answer.json()["items"]) == (201, [{"sku": sku, "quantity": 6}])
    else:
        answer = servers.inventory.post("/inventory/decrease", {"items": lines, "request_id": sku})
        assert (answer.status, answer.json()["items"]) == (200, [{"sku": sku, "delta": -6, "quantity": 4}])
    assert servers.inventory.get("/inventory/sku", sku=sku).json()["quantity"] == 4


@pytest.mark.usefixtures("unchanged")
def test_lines_that_sum_up_to_too_much_are_refused(servers: Servers) -> None:
    """Each line within the limit, the sum of one SKU's lines beyond it."""
    lines = [{"sku": SKU, "quantity": QUANTITY_MAX}, {"sku": SKU, "quantity": 1}]
    for server, path, body in (
        (servers.order, "/orders", {"user_id": "u", "items": lines, "total_amount": 1}),
        (servers.inventory, "/inventory/decrease", {"items": lines, "request_id": "r"}),
        (servers.inventory, "/inventory/decrease/batch", {"items": [{"items": lines, "request_id": "r"}]}),
    ):
        answer = server.post(path, body)
        assert_problem(answer, 400, "invalid_request")
        assert "sum" in answer.json()["detail"]


@pytest.mark.usefixtures("unchanged")
def test_too_many_lines_and_items_are_refused(servers: Servers) -> None:
    """A cart has 50 lines at the most, a batch 256 items."""
    lines = [{"sku": f"{SKU}-{n}", "quantity": 1} for n in range(LINES_MAX + 1)]
    for server, path, body in (
        (servers.order, "/orders", {"user_id": "u", "items": lines, "total_amount": 1}),
        (servers.inventory, "/inventory/decrease", {"items": lines, "request_id": "r"}),
        (servers.inventory, "/inventory/decrease/batch", {"items": [_TAKE_ONE] * (BATCH_MAX + 1)}),
        (servers.inventory, "/inventory/rollback/batch", {"items": [{"request_id": "r"}] * (BATCH_MAX + 1)}),
        (servers.payment, "/payments/batch", {"items": [_CHARGE] * (BATCH_MAX + 1)}),
    ):
        answer = server.post(path, body)
        assert_problem(answer, 400, "invalid_request")
        assert answer.fields == ["items"]


def test_batch_with_one_invalid_item_does_nothing(servers: Servers, books: Books) -> None:
    """What can be seen to be malformed is refused as a whole, with the item's number; the good items wait."""
    sku = servers.new_sku(10)
    before = books.state()
    items = [{"sku": sku, "quantity": 1, "request_id": uuid4().hex}, {"sku": sku, "quantity": 0}]
    answer = servers.inventory.post("/inventory/decrease/batch", {"items": items})
    assert_problem(answer, 400, "invalid_request")
    assert answer.fields == ["items.1.quantity"]
    assert books.state() == before


@pytest.mark.parametrize("quantity", [11, QUANTITY_MAX])
def test_stock_never_grows_beyond_its_limit(quantity: int, servers: Servers) -> None:
    """A restock that would overflow is a definite 409 and changes nothing."""
    sku = servers.new_sku(STOCK_MAX - 10)
    body = {"sku": sku, "quantity": quantity, "request_id": sku}
    assert_problem(servers.inventory.post("/inventory/increase", body), 409, "stock_limit_exceeded")
    assert servers.inventory.get("/inventory/sku", sku=sku).json()["quantity"] == STOCK_MAX - 10


@pytest.mark.parametrize(
    "body",
    [
        {**_ORDER},
        {**_ORDER, "sku": None, "items": None},
        {**_ORDER, "sku": SKU, "items": _LINES},
        {**_ORDER, "quantity": 1, "items": _LINES},
        {**_ORDER, "quantity": 1},
    ],
    ids=["neither", "null", "both", "quantity of items", "quantity alone"],
)
@pytest.mark.usefixtures("unchanged")
def test_order_has_exactly_one_form(body: dict[str, Any], servers: Servers) -> None:
    """One sku, or items: never both, never neither."""
    assert_problem(servers.order.post("/orders", body), 400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"sku": SKU},
        {"quantity": 1},
        {"items": _LINES},
        {**_TAKE_ONE, "items": _LINES},
        {**_TAKE_SOME, "quantity": 1},
        {**_TAKE_SOME, "request_id": None},
    ],
    ids=lambda body: ",".join(body) or "empty",
)
@pytest.mark.usefixtures("unchanged")
def test_decrease_has_exactly_one_form(body: dict[str, Any], servers: Servers) -> None:
    """One sku and quantity, or items with a request_id."""
    assert_problem(servers.inventory.post("/inventory/decrease", body), 400, "invalid_request")
    assert_problem(servers.inventory.post("/inventory/decrease/batch", {"items": [body]}), 400, "invalid_request")


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


def test_nothing_of_the_input_breaks_a_header_or_a_log_line(servers: Servers) -> None:
    """A request id with a line break in it is not echoed, and an error detail is one JSON string."""
    answer = servers.order.call("GET", "/orders?user_id=x%0d%0aSet-Cookie:%20a=b", headers={"X-Request-ID": "a b"})
    assert_refused(answer, "user_id")
    assert answer.headers["Set-Cookie"] is None
    assert answer.headers["X-Request-ID"] != "a b"


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([SKU, ORDER_ID, "cancelled"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
field_names = sorted(map(str, BAD_VALUES))


@each_with_body
@fuzzed
@given(body=any_json | st.dictionaries(st.sampled_from(field_names), any_json))
def test_no_json_is_a_5xx(endpoint: Endpoint, servers: Servers, body: object) -> None:
    """Whatever JSON is sent, also with the right names and any values: the answer is never a 5xx."""
    assert_no_5xx(send(servers, endpoint, json.dumps(body).encode()))


@each_with_body
@fuzzed
@given(body=st.binary(max_size=200) | st.binary(max_size=50).map(lambda noise: b'{"sku": "' + noise + b'"}'))
def test_no_bytes_are_a_5xx(endpoint: Endpoint, servers: Servers, body: bytes) -> None:
    """Whatever bytes are sent as JSON: the answer is a 4xx."""
    assert_refused(send(servers, endpoint, body))


@fuzzed
@given(query=st.text(st.characters(codec="ascii", exclude_characters="\0\r\n #"), max_size=60))
def test_no_query_string_is_a_5xx(servers: Servers, query: str) -> None:
    """Whatever follows the question mark: the answer is never a 5xx."""
    for endpoint in READING:
        path = endpoint.route.path.replace("{order_id}", ORDER_ID)
        assert_no_5xx(servers.of(endpoint.service).get(f"{path}?{query}"))


@pytest.mark.parametrize("service", ["order", "inventory", "payment"])
def test_nothing_of_all_this_was_logged_as_an_error(service: str, services: Services) -> None:
    """A caller's mistakes fill no error log and raise no alarm."""
    log = log_of(getattr(services, service).log)
    assert [line for line in log.splitlines() if '"level": "error"' in line] == []


def assert_no_5xx(answer: Answer) -> None:
    assert answer.status < 500, answer
    if answer.status >= 400:
        assert_problem(answer, answer.status, answer.json()["code"])


def send(servers: Servers, endpoint: Endpoint, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    return servers.of(endpoint.service).send_json(endpoint.route.method, endpoint.route.path, body, headers)


def send_chunked(servers: Servers, endpoint: Endpoint, body: bytes) -> Answer:
    """In chunks of 10,000 bytes, without saying how many there will be."""
    chunks = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    head = f"{endpoint.route.method} {endpoint.route.path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
    headers = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return servers.of(endpoint.service).send((head + headers).encode() + framed)
