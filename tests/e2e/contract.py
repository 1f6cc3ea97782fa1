"""What the tests of the wire contract share: orders to place, and what the services say of them."""

from collections.abc import Mapping
from typing import Any

from uuid_utils import uuid7

from tests.e2e.conftest import Servers, wait_until
from tests.e2e.raw import Answer

UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"


def order_of(sku: str, **fields: Any) -> dict[str, Any]:
    return {"user_id": "ada", "sku": sku, "total_amount": 700, **fields}


def place(servers: Servers, key: str | None = None, **fields: Any) -> Answer:
    return servers.order.post("/orders", order_of(**fields), {"Idempotency-Key": key} if key else {})


def stock_of(servers: Servers, sku: str) -> int:
    return int(servers.inventory.get("/inventory/sku", sku=sku).json()["quantity"])


def payment_of(servers: Servers, order_id: str) -> dict[str, Any]:
    found: dict[str, Any] = servers.payment.get("/payments", order_id=order_id).json()
    return found


def wait_for(servers: Servers, order_id: str, status: str) -> None:
    wait_until(lambda: servers.order.get(f"/orders/{order_id}").json()["status"] == status)


def without_request_id(answer: Answer) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    return {name: value for name, value in problem.items() if name != "request_id"}


def new_order_id() -> str:
    return str(uuid7())


def code_of(outcome: Mapping[str, Any]) -> str | None:
    return str(outcome["error"]["code"]) if outcome["error"] else None
