"""Orders that come at once, and what has become of them: for the tests of group commit."""

from typing import Any
from uuid import uuid4

from tests.buyers import Got, Wish
from tests.e2e.conftest import Servers
from vv.databases import SERVICES


def for_all(**settings: str) -> dict[str, str]:
    """A setting of each service."""
    return {f"{service.upper()}_{name}": value for name, value in settings.items() for service in SERVICES}


def order(sku: str, **fields: Any) -> dict[str, Any]:
    return {"user_id": f"user-{uuid4().hex}", "sku": sku, "total_amount": 700, **fields}


def assert_own(wish: Wish, got: Got) -> None:
    """The order in the answer is the one that its caller wished for."""
    lines = wish.body.get("items") or [{"sku": wish.body["sku"], "quantity": wish.body.get("quantity", 1)}]
    own = {"user_id": wish.body["user_id"], "items": lines, "total_amount": wish.body["total_amount"]}
    assert {name: got.body[name] for name in own} == own, (got.body, own)


def orders_of(servers: Servers, wish: Wish) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = servers.order.get("/orders", user_id=wish.body["user_id"]).json()["items"]
    return found
