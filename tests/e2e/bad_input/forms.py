"""What each endpoint takes, and how to send it something else."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.e2e.conftest import Servers
from tests.e2e.raw import Answer, assert_problem
from tests.route_tables import ENDPOINTS, Endpoint

ORDER_ID = "01890000-0000-7000-8000-000000000000"
SKU = "no-such-sku"
JSON = {"Content-Type": "application/json"}

ORDER = {"user_id": "u", "total_amount": 1, "currency": "USD", "payment_method": "tok_ok"}
CHARGE = {
    "order_id": ORDER_ID,
    "amount": 1,
    "currency": "USD",
    "payment_method": "tok_ok",
    "user_id": "u",
    "trace": f"00-{'a' * 32}-{'b' * 16}-01",
}
LINES = [{"sku": SKU, "quantity": 1}]
TAKE_ONE = {"sku": SKU, "quantity": 1, "request_id": "r", "order_id": ORDER_ID}
TAKE_SOME = {"items": LINES, "request_id": "r", "order_id": ORDER_ID}

# What each endpoint takes, in each of its forms. None of it exists, so that nothing happens even if it is accepted.
FORMS: Mapping[str, Sequence[dict[str, Any]]] = {
    "POST /orders": [{**ORDER, "sku": SKU, "quantity": 1}, {**ORDER, "items": LINES}],
    "PATCH /orders": [{"order_id": ORDER_ID, "status": "cancelled"}],
    "POST /inventory/create": [{"product_id": "p", "sku": SKU, "quantity": 0}],
    "POST /inventory/decrease": [TAKE_ONE, TAKE_SOME],
    "POST /inventory/decrease/batch": [{"items": [TAKE_ONE]}, {"items": [TAKE_SOME]}],
    "POST /inventory/increase": [{"sku": SKU, "quantity": 1, "request_id": "r"}],
    "POST /inventory/rollback": [{"request_id": "r"}],
    "POST /inventory/rollback/batch": [{"items": [{"request_id": "r"}]}],
    "POST /payments": [CHARGE],
    "POST /payments/batch": [{"items": [CHARGE]}],
    "POST /payments/refund": [{"order_id": ORDER_ID, "amount": 1, "request_id": "r"}],
    "POST /payments/cancel": [{"order_id": ORDER_ID}],
}
WITH_BODY = [endpoint for endpoint in ENDPOINTS if endpoint.route.body]
READING = [endpoint for endpoint in ENDPOINTS if endpoint.route.method == "GET"]
each_with_body = pytest.mark.parametrize("endpoint", WITH_BODY, ids=str)
fuzzed = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_no_5xx(answer: Answer) -> None:
    assert answer.status < 500, answer
    if answer.status >= 400:
        assert_problem(answer, answer.status, answer.json()["code"])


def send(servers: Servers, endpoint: Endpoint, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    return servers.of(endpoint.service).send_json(endpoint.route.method, endpoint.route.path, body, headers)
