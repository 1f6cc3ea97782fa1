"""The wire contract of the inventory service, call by call, with each of its replies."""

from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.conftest import Servers
from tests.e2e.contract import code_of, new_order_id, stock_of, without_request_id
from tests.e2e.raw import Answer, assert_problem


class TestStock:
    def test_created_sku_can_be_read(self, servers: Servers) -> None:
        """201 with what GET answers from then on; zero is a quantity."""
        body = {"product_id": "mug", "sku": uuid4().hex, "quantity": 0}
        answer = servers.inventory.post("/inventory/create", body)
        assert (answer.status, answer.json()) == (201, body)
        assert servers.inventory.get("/inventory/sku", sku=body["sku"]).json() == body

    def test_sku_that_exists_is_409(self, servers: Servers) -> None:
        """Its stock stays as it was."""
        sku = servers.new_sku(5)
        answer = servers.inventory.post("/inventory/create", {"product_id": "mug", "sku": sku, "quantity": 9})
        assert_problem(answer, 409, "sku_exists")
        assert stock_of(servers, sku) == 5

    def test_product_has_all_its_skus(self, servers: Servers) -> None:
        """By SKU; a product without any has an empty list."""
        product = uuid4().hex
        skus = sorted(servers.new_sku(n, product_id=product) for n in range(3))
        found = servers.inventory.get("/inventories", product_id=product).json()["items"]
        assert [level["sku"] for level in found] == skus
        assert {level["product_id"] for level in found} == {product}
        assert servers.inventory.get("/inventories", product_id=uuid4().hex).json() == {"items": []}

    def test_unknown_sku_is_404(self, servers: Servers) -> None:
        """Wherever it is asked for; it is named."""
        unknown = uuid4().hex
        for answer in (
            servers.inventory.get("/inventory/sku", sku=unknown),
            servers.inventory.get("/inventory/ledger", sku=unknown),
            decrease(servers, sku=unknown, quantity=1),
            increase(servers, sku=unknown, quantity=1, request_id=unknown),
        ):
            assert assert_problem(answer, 404, "sku_not_found")["skus"] == [unknown]

    def test_decrease_of_one_sku(self, servers: Servers) -> None:
        """200 with what was taken and what is left, and a request id to roll it back with."""
        sku = servers.new_sku(10)
        change = decrease(servers, sku=sku, quantity=3).json()
        assert change["items"] == [{"sku": sku, "delta": -3, "quantity": 7}]
        assert rollback(servers, change["request_id"]).json()["items"] == [{"sku": sku, "delta": 3, "quantity": 10}]

    def test_decrease_of_several_items_takes_all_or_none(self, servers: Servers) -> None:
        """200 for all; 409 that names the short lines, and 404 that names the unknown ones, for none."""
        one, two = sorted([servers.new_sku(5), servers.new_sku(2)])
        items = [{"sku": sku, "quantity": 2} for sku in (two, one)]
        taken = decrease(servers, items=items, request_id=uuid4().hex)
        assert (taken.status, [item["sku"] for item in taken.json()["items"]]) == (200, [one, two])
        levels = [stock_of(servers, sku) for sku in (one, two)]
        short = assert_problem(decrease(servers, items=items, request_id=uuid4().hex), 409, "out_of_stock")
        assert [line["requested"] for line in short["lines"]] == [2]
        unknown = decrease(servers, items=[*items, {"sku": "nope", "quantity": 1}], request_id=uuid4().hex)
        assert assert_problem(unknown, 404, "sku_not_found")["skus"] == ["nope"]
        assert [stock_of(servers, sku) for sku in (one, two)] == levels

    def test_decrease_takes_effect_once_for_a_request_id(self, servers: Servers) -> None:
        """The same answer again; the same id for other lines is 422."""
        sku, key = servers.new_sku(10), uuid4().hex
        first = decrease(servers, sku=sku, quantity=3, request_id=key)
        decrease(servers, sku=sku, quantity=1)
        again = decrease(servers, sku=sku, quantity=3, request_id=key)
        assert (again.status, again.json()) == (200, first.json())
        assert_problem(decrease(servers, sku=sku, quantity=4, request_id=key), 422, "idempotency_mismatch")
        assert stock_of(servers, sku) == 6

    def test_refused_request_id_stays_refused(self, servers: Servers) -> None:
        """A late copy of a refused request must not take stock that has come in since."""
        sku, key = servers.new_sku(0), uuid4().hex
        first = decrease(servers, sku=sku, quantity=1, request_id=key)
        increase(servers, sku=sku, quantity=10, request_id=uuid4().hex)
        again = decrease(servers, sku=sku, quantity=1, request_id=key)
        assert without_request_id(again) == without_request_id(first)
        assert stock_of(servers, sku) == 10

    def test_increase_takes_effect_once_for_a_request_id(self, servers: Servers) -> None:
        """200 with the new stock; the same again; another quantity is 422."""
        sku, key = servers.new_sku(1), uuid4().hex
        first = increase(servers, sku=sku, quantity=4, request_id=key)
        assert (first.status, first.json()["items"]) == (200, [{"sku": sku, "delta": 4, "quantity": 5}])
        assert increase(servers, sku=sku, quantity=4, request_id=key).json() == first.json()
        assert_problem(increase(servers, sku=sku, quantity=5, request_id=key), 422, "idempotency_mismatch")
        assert stock_of(servers, sku) == 5

    def test_rollback_gives_everything_back_once(self, servers: Servers) -> None:
        """200 and the same answer again; the late copy of the decrease is refused."""
        one, two, key = servers.new_sku(5), servers.new_sku(5), uuid4().hex
        items = [{"sku": sku, "quantity": 2} for sku in (one, two)]
        decrease(servers, items=items, request_id=key)
        first = rollback(servers, key)
        assert {(item["sku"], item["delta"], item["quantity"]) for item in first.json()["items"]} == {
            (one, 2, 5),
            (two, 2, 5),
        }
        assert rollback(servers, key).json() == first.json()
        late = decrease(servers, items=items, request_id=key)
        assert_problem(late, 409, "stock_request_rolled_back")
        assert (stock_of(servers, one), stock_of(servers, two)) == (5, 5)

    def test_rollback_before_the_decrease_keeps_it_from_happening(self, servers: Servers) -> None:
        """200 that returns nothing, twice; the decrease that comes late is a definite 409, however often it comes."""
        sku, key = servers.new_sku(5), uuid4().hex
        for _ in range(2):
            answer = rollback(servers, key)
            assert (answer.status, answer.json()) == (200, {"request_id": key, "items": []})
        for _ in range(2):
            late = decrease(servers, sku=sku, quantity=1, request_id=key)
            assert_problem(late, 409, "stock_request_rolled_back")
        assert stock_of(servers, sku) == 5

    def test_rollback_of_a_refused_decrease_returns_nothing(self, servers: Servers) -> None:
        """There is nothing to give back."""
        sku, key = servers.new_sku(0), uuid4().hex
        decrease(servers, sku=sku, quantity=1, request_id=key)
        assert rollback(servers, key).json()["items"] == []
        assert stock_of(servers, sku) == 0

    def test_increase_cannot_be_rolled_back(self, servers: Servers) -> None:
        """Only decreases are undone, also if an increase has the same request id."""
        sku, key = servers.new_sku(0), uuid4().hex
        increase(servers, sku=sku, quantity=5, request_id=key)
        assert rollback(servers, key).json()["items"] == []
        assert stock_of(servers, sku) == 5

    def test_ledger_tells_every_change_newest_first(self, servers: Servers) -> None:
        """What, by whom, how much, and the stock right after it; nothing of requests that took nothing."""
        sku, order_id = servers.new_sku(10), new_order_id()
        decrease(servers, sku=sku, quantity=3, request_id=f"{sku}-d", order_id=order_id)
        decrease(servers, sku=sku, quantity=99, request_id=f"{sku}-x", order_id=order_id)
        increase(servers, sku=sku, quantity=5, request_id=f"{sku}-i")
        rollback(servers, f"{sku}-d")
        entries = servers.inventory.get("/inventory/ledger", sku=sku).json()["items"]
        told = [
            (entry["kind"], entry["request_id"], entry["delta"], entry["quantity"], entry["order_id"])
            for entry in entries
        ]
        created = entries[-1]["request_id"]
        assert told == [
            ("rollback", f"{sku}-d", 3, 15, order_id),
            ("restock", f"{sku}-i", 5, 12, None),
            ("deduct", f"{sku}-d", -3, 7, order_id),
            ("create", created, 10, 10, None),
        ]

    @pytest.mark.parametrize("limit", [1, 2, 4, 5, 200])
    def test_ledger_is_paged(self, limit: int, servers: Servers) -> None:
        """Each entry once, the last page without a cursor."""
        sku = servers.new_sku(10)
        for _ in range(4):
            decrease(servers, sku=sku, quantity=1)
        found: list[int] = []
        query: dict[str, Any] = {"sku": sku, "limit": limit}
        while True:
            page = servers.inventory.get("/inventory/ledger", **query).json()
            found += [entry["quantity"] for entry in page["items"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        assert found == [6, 7, 8, 9, 10]

    def test_batch_of_decreases_has_an_outcome_each(self, servers: Servers) -> None:
        """In order, as the single call would have answered one after the other: stock goes to whoever comes first."""
        sku, other = servers.new_sku(3), servers.new_sku(0)
        first = {"sku": sku, "quantity": 2, "request_id": uuid4().hex}
        items = [
            first,
            {"sku": sku, "quantity": 2, "request_id": uuid4().hex},
            {"sku": "nope", "quantity": 1, "request_id": uuid4().hex},
            {"items": [{"sku": sku, "quantity": 1}, {"sku": other, "quantity": 1}], "request_id": uuid4().hex},
            first,
            {**first, "quantity": 1},
            {"sku": sku, "quantity": 1},
        ]
        answer = servers.inventory.post("/inventory/decrease/batch", {"items": items})
        outcomes = answer.json()["items"]
        assert answer.status == 200
        assert [outcome["status"] for outcome in outcomes] == [200, 409, 404, 409, 200, 422, 200]
        assert [code_of(outcome) for outcome in outcomes] == [
            *(None, "out_of_stock", "sku_not_found", "out_of_stock"),
            *(None, "idempotency_mismatch", None),
        ]
        assert outcomes[4] == outcomes[0]
        assert outcomes[1]["error"]["lines"] == [{"sku": sku, "requested": 2, "available": 1}]
        assert stock_of(servers, sku) == 0

    def test_batch_of_rollbacks_has_an_outcome_each(self, servers: Servers) -> None:
        """Taken, never heard of, and the same again, in order."""
        sku, key, unknown = servers.new_sku(3), uuid4().hex, uuid4().hex
        decrease(servers, sku=sku, quantity=2, request_id=key)
        items = [{"request_id": each} for each in (unknown, key, key, unknown)]
        outcomes = servers.inventory.post("/inventory/rollback/batch", {"items": items}).json()["items"]
        assert [outcome["result"]["request_id"] for outcome in outcomes] == [unknown, key, key, unknown]
        assert [len(outcome["result"]["items"]) for outcome in outcomes] == [0, 1, 1, 0]
        assert stock_of(servers, sku) == 3


def decrease(servers: Servers, **body: Any) -> Answer:
    return servers.inventory.post("/inventory/decrease", body)


def increase(servers: Servers, **body: Any) -> Answer:
    return servers.inventory.post("/inventory/increase", body)


def rollback(servers: Servers, request_id: str) -> Answer:
    return servers.inventory.post("/inventory/rollback", {"request_id": request_id})
