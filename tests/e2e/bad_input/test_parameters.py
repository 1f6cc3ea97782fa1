"""Paths, parameters and headers that are wrong get a 4xx problem document that names them, and change nothing."""

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.base import PAGE_MAX
from tests.e2e.bad_input.conftest import errors_of
from tests.e2e.bad_input.forms import FORMS, JSON, ORDER_ID, READING, SKU, assert_no_5xx, fuzzed
from tests.e2e.conftest import Servers
from tests.e2e.raw import assert_problem, assert_refused
from tests.processes import Services
from tests.route_tables import ENDPOINTS, Endpoint


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


def test_nothing_of_the_input_breaks_a_header_or_a_log_line(servers: Servers) -> None:
    """A request id with a line break in it is not echoed, and an error detail is one JSON string."""
    answer = servers.order.call("GET", "/orders?user_id=x%0d%0aSet-Cookie:%20a=b", headers={"X-Request-ID": "a b"})
    assert_refused(answer, "user_id")
    assert answer.headers["Set-Cookie"] is None
    assert answer.headers["X-Request-ID"] != "a b"


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
    assert errors_of(getattr(services, service)) == []
