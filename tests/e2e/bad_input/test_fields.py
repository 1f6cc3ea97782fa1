"""A field that is wrong, missing, unknown or given twice is refused by its name, and nothing changes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.base import AMOUNT_MAX, QUANTITY_MAX, STOCK_MAX
from tests.e2e.bad_input.forms import FORMS, ORDER_ID, SKU, WITH_BODY, assert_no_5xx, each_with_body, fuzzed, send
from tests.e2e.conftest import Servers
from tests.e2e.raw import assert_problem
from tests.route_tables import ENDPOINTS, Endpoint

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

ANY_ENDPOINT = {str(endpoint): endpoint for endpoint in ENDPOINTS}


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
