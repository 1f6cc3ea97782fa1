"""The wire contract, call by call, with each of its replies."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from uuid_utils import uuid7

from tests.e2e.conftest import Books, Servers, wait_until
from tests.e2e.raw import Answer, assert_problem

UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"


@pytest.fixture
def user() -> str:
    """A user who has ordered nothing yet."""
    return f"user-{uuid4().hex}"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def order_of(sku: str, **fields: Any) -> dict[str, Any]:
    return {"user_id": "ada", "sku": sku, "total_amount": 700, **fields}


def place(servers: Servers, key: str | None = None, **fields: Any) -> Answer:
    return servers.order.post("/orders", order_of(**fields), {"Idempotency-Key": key} if key else {})


def stock_of(servers: Servers, sku: str) -> int:
    return int(servers.inventory.get("/inventory/sku", sku=sku).json()["quantity"])


def payment_of(servers: Servers, order_id: str) -> dict[str, Any]:
    found: dict[str, Any] = servers.payment.get("/payments", order_id=order_id).json()
    return found


def timeline(servers: Servers, order_id: str) -> list[tuple[int, str, str | None]]:
    events = servers.order.get(f"/orders/{order_id}/events").json()["events"]
    return [(event["seq"], event["status"], event["reason"]) for event in events]


def wait_for(servers: Servers, order_id: str, status: str) -> None:
    wait_until(lambda: servers.order.get(f"/orders/{order_id}").json()["status"] == status)


def without_request_id(answer: Answer) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    return {name: value for name, value in problem.items() if name != "request_id"}


def new_order_id() -> str:
    return str(uuid7())


class TestPlaceOrder:
    def test_one_sku_is_completed(self, servers: Servers, books: Books) -> None:
        """201, with the whole order, where to find it, the stock taken and the money charged once."""
        sku = servers.new_sku(10)
        answer = place(servers, sku=sku, quantity=3, currency="EUR")
        order = answer.json()
        assert answer.status == 201
        assert (order["status"], order["items"]) == ("completed", [{"sku": sku, "quantity": 3}])
        assert (order["user_id"], order["total_amount"], order["currency"]) == ("ada", 700, "EUR")
        assert answer.headers["Location"] == f"/orders/{order['order_id']}"
        assert answer.headers["Idempotent-Replayed"] is None
        assert stock_of(servers, sku) == 7
        assert books.gateway(order["order_id"]) == [("charge", 700)]

    def test_cart_is_completed(self, servers: Servers) -> None:
        """201 for several items; without a currency it is USD, and the lines come in the order of their SKUs."""
        first, second = sorted([servers.new_sku(10), servers.new_sku(10)])
        items = [{"sku": second, "quantity": 2}, {"sku": first, "quantity": 1}]
        answer = servers.order.post("/orders", {"user_id": "ada", "items": items, "total_amount": 700})
        assert (answer.status, answer.json()["currency"]) == (201, "USD")
        assert answer.json()["items"] == [{"sku": first, "quantity": 1}, {"sku": second, "quantity": 2}]
        assert (stock_of(servers, first), stock_of(servers, second)) == (9, 8)

    def test_quantity_is_one_unless_given(self, servers: Servers) -> None:
        """The body of the Go original, without a quantity, buys one."""
        sku = servers.new_sku(10)
        assert place(servers, sku=sku).json()["items"] == [{"sku": sku, "quantity": 1}]

    def test_unknown_outcome_is_202(self, servers: Servers) -> None:
        """The charge's reply was lost: accepted, stock reserved, to be followed at Location; completed later."""
        sku = servers.new_sku(10)
        answer = place(servers, sku=sku, payment_method="tok_timeout")
        assert (answer.status, answer.json()["status"]) == (202, "inventory_reserved")
        assert stock_of(servers, sku) == 9
        wait_until(lambda: servers.order.get(answer.headers["Location"]).json()["status"] == "completed")

    def test_unknown_sku_is_404(self, servers: Servers) -> None:
        """It names the SKU, and the order that failed of it."""
        problem = assert_problem(place(servers, sku="never-heard-of"), 404, "sku_not_found")
        assert problem["skus"] == ["never-heard-of"]
        order = servers.order.get(f"/orders/{problem['order_id']}").json()
        assert (order["status"], order["reason"]) == ("failed", "sku_not_found")

    def test_out_of_stock_is_409_and_takes_nothing(self, servers: Servers) -> None:
        """It names each line that falls short and by how much; the lines that do not are not taken either."""
        plenty, few, none = servers.new_sku(10), servers.new_sku(2), servers.new_sku(0)
        items = [{"sku": sku, "quantity": 3} for sku in (plenty, few, none)]
        answer = servers.order.post("/orders", {"user_id": "ada", "items": items, "total_amount": 700})
        problem = assert_problem(answer, 409, "out_of_stock")
        short = {(line["sku"], line["requested"], line["available"]) for line in problem["lines"]}
        assert short == {(few, 3, 2), (none, 3, 0)}
        assert [stock_of(servers, sku) for sku in (plenty, few, none)] == [10, 2, 0]
        assert servers.payment.get("/payments", order_id=problem["order_id"]).status == 404

    def test_declined_card_is_402_and_gives_the_stock_back(self, servers: Servers, books: Books) -> None:
        """It says why; nothing is charged."""
        sku = servers.new_sku(10)
        problem = assert_problem(place(servers, sku=sku, payment_method="tok_declined"), 402, "payment_declined")
        assert problem["reason"] == "card_declined"
        assert stock_of(servers, sku) == 10
        assert books.gateway(problem["order_id"]) == []
        assert [status for _, status, _ in timeline(servers, problem["order_id"])] == [
            *("created", "inventory_reserved"),
            *("failing", "failed"),
        ]

    def test_without_a_key_each_request_is_an_order(self, servers: Servers) -> None:
        """Nothing is guessed to be a repetition."""
        sku = servers.new_sku(10)
        assert place(servers, sku=sku).json()["order_id"] != place(servers, sku=sku).json()["order_id"]
        assert stock_of(servers, sku) == 8


class TestIdempotencyKey:
    def test_same_key_and_body_replays_the_order(self, servers: Servers, user: str, books: Books) -> None:
        """The same 201 and order, marked as a replay; nothing is taken or charged again."""
        sku = servers.new_sku(10)
        first, again = (place(servers, "k", sku=sku, user_id=user) for _ in range(2))
        assert (again.status, again.json()) == (first.status, first.json()) == (201, first.json())
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.headers["Location"] == first.headers["Location"]
        assert stock_of(servers, sku) == 9
        assert len(books.gateway(first.json()["order_id"])) == 1

    @pytest.mark.parametrize(
        "same",
        [
            {"quantity": 1},
            {"currency": "USD", "payment_method": "tok_ok"},
            {"quantity": None, "items": None},
        ],
        ids=["quantity", "defaults", "null"],
    )
    def test_what_means_the_same_is_the_same_body(self, same: dict[str, Any], servers: Servers, user: str) -> None:
        """Defaults that are spelt out do not make another order."""
        sku = servers.new_sku(10)
        first = place(servers, "k", sku=sku, user_id=user)
        assert place(servers, "k", sku=sku, user_id=user, **same).json() == first.json()

    def test_lines_in_another_order_are_the_same_cart(self, servers: Servers, user: str) -> None:
        """A cart is a set of quantities, however it is written."""
        one, two = servers.new_sku(10), servers.new_sku(10)
        lines = [{"sku": one, "quantity": 2}, {"sku": two, "quantity": 1}]
        same = [{"sku": two, "quantity": 1}, {"sku": one, "quantity": 1}, {"sku": one, "quantity": 1}]
        answers = [
            servers.order.post(
                "/orders", {"user_id": user, "items": items, "total_amount": 1}, {"Idempotency-Key": "k"}
            )
            for items in (lines, same)
        ]
        assert answers[0].json() == answers[1].json()

    @pytest.mark.parametrize(
        "other",
        [{"quantity": 2}, {"total_amount": 701}, {"currency": "EUR"}, {"payment_method": "tok_declined"}],
        ids=str,
    )
    def test_another_body_is_422(self, other: dict[str, Any], servers: Servers, user: str) -> None:
        """Whatever differs: it is refused, and the first order stays as it is."""
        sku = servers.new_sku(10)
        first = place(servers, "k", sku=sku, user_id=user)
        assert_problem(place(servers, "k", **{"sku": sku, "user_id": user, **other}), 422, "idempotency_mismatch")
        assert servers.order.get(first.headers["Location"]).json() == first.json()
        assert stock_of(servers, sku) == 9

    def test_keys_belong_to_their_user(self, servers: Servers, user: str) -> None:
        """Two users who choose the same key do not meet."""
        sku = servers.new_sku(10)
        assert place(servers, "k", sku=sku, user_id=user).status == 201
        other = place(servers, "k", sku=sku, user_id=f"{user}-2", quantity=2)
        assert (other.status, other.headers["Idempotent-Replayed"]) == (201, None)

    @pytest.mark.parametrize(
        ("fields", "status", "code"),
        [
            ({"sku": "never-heard-of"}, 404, "sku_not_found"),
            ({"quantity": 11}, 409, "out_of_stock"),
            ({"payment_method": "tok_declined"}, 402, "payment_declined"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_failure_is_replayed_word_for_word(
        self, fields: dict[str, Any], status: int, code: str, servers: Servers, user: str
    ) -> None:
        """The same problem document but for its request id, also when it would succeed by now."""
        sku = servers.new_sku(10)
        wanted = {"sku": sku, "user_id": user, **fields}
        first = place(servers, "k", **wanted)
        servers.inventory.post("/inventory/increase", {"sku": sku, "quantity": 100, "request_id": user})
        again = place(servers, "k", **wanted)
        assert_problem(first, status, code)
        assert_problem(again, status, code)
        assert without_request_id(again) == without_request_id(first)
        assert first.json()["request_id"] != again.json()["request_id"]
        assert (first.headers["Idempotent-Replayed"], again.headers["Idempotent-Replayed"]) == (None, "true")

    def test_still_running_is_409_with_retry_after(
        self, servers: Servers, user: str, threads: ThreadPoolExecutor
    ) -> None:
        """While the first request is at work the second is told to come back; then it gets the result."""
        sku = servers.new_sku(10)
        first, order_id = start_slow_order(servers, threads, sku, user)
        answer = place(servers, "k", sku=sku, user_id=user, payment_method="tok_slow")
        problem = assert_problem(answer, 409, "request_in_progress")
        assert (problem["retryable"], problem["order_id"], answer.headers["Retry-After"]) == (True, order_id, "1")
        assert_problem(place(servers, "k", sku=sku, user_id=user), 422, "idempotency_mismatch")
        assert first.result().status == 201
        replay = place(servers, "k", sku=sku, user_id=user, payment_method="tok_slow")
        assert (replay.status, replay.json()) == (201, first.result().json())

    def test_unknown_outcome_is_replayed_as_it_stands(self, servers: Servers, user: str) -> None:
        """202 is replayed as 202 until the order is completed, then as 201."""
        sku = servers.new_sku(10)
        wanted = {"sku": sku, "user_id": user, "payment_method": "tok_timeout"}
        first = place(servers, "k", **wanted)
        again = place(servers, "k", **wanted)
        assert (first.status, again.headers["Idempotent-Replayed"]) == (202, "true")
        assert again.json()["order_id"] == first.json()["order_id"]
        wait_for(servers, first.json()["order_id"], "completed")
        assert place(servers, "k", **wanted).status == 201


def start_slow_order(
    servers: Servers, threads: ThreadPoolExecutor, sku: str, user: str
) -> tuple["Future[Answer]", str]:
    """An order with the key ``k`` whose charge takes a second, once its stock is reserved; and its id."""
    placing = threads.submit(place, servers, "k", sku=sku, user_id=user, payment_method="tok_slow")
    reserved = {"user_id": user, "status": "inventory_reserved"}
    wait_until(lambda: bool(servers.order.get("/orders", **reserved).json()["items"]))
    return placing, str(servers.order.get("/orders", **reserved).json()["items"][0]["order_id"])


class TestReadOrders:
    def test_order_is_found_by_path_and_by_query(self, servers: Servers) -> None:
        """Both forms give the order as it was answered when it was placed."""
        placed = place(servers, sku=servers.new_sku()).json()
        assert servers.order.get(f"/orders/{placed['order_id']}").json() == placed
        assert servers.order.get("/orders", order_id=placed["order_id"]).json() == placed

    @pytest.mark.parametrize(
        "path", [f"/orders/{UNKNOWN_ID}", f"/orders?order_id={UNKNOWN_ID}", f"/orders/{UNKNOWN_ID}/events"]
    )
    def test_unknown_order_is_404(self, path: str, servers: Servers) -> None:
        """By any road."""
        assert_problem(servers.order.get(path), 404, "order_not_found")

    def test_ids_are_uuids_in_order_of_time_and_times_are_utc(self, servers: Servers) -> None:
        """UUIDv7 in order of creation, RFC 3339 with a Z."""
        sku = servers.new_sku()
        orders = [place(servers, sku=sku).json() for _ in range(5)]
        assert all(order["order_id"][14] == "7" for order in orders)
        assert all(one["order_id"] < next_one["order_id"] for one, next_one in pairwise(orders))
        assert all(order[name].endswith("Z") for order in orders for name in ("created_at", "updated_at"))

    def test_list_is_newest_first_and_filtered(self, servers: Servers, user: str) -> None:
        """By user, by status, and by both."""
        sku = servers.new_sku(2)
        ids = [place(servers, sku=sku, user_id=user, quantity=1).json()["order_id"] for _ in range(3)]
        completed, failed = ids[:2], ids[2]
        assert list_ids(servers, user_id=user) == [failed, *reversed(completed)]
        assert list_ids(servers, user_id=user, status="completed") == completed[::-1]
        assert list_ids(servers, user_id=user, status="failed") == [failed]
        assert list_ids(servers, user_id=user, status="cancelled") == []
        assert list_ids(servers, status="failed", limit=1) == [failed]

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 200])
    def test_pages_make_up_the_whole_list(self, limit: int, servers: Servers, user: str) -> None:
        """Each order once, whatever the size of a page, also when new ones arrive meanwhile; the end has no cursor."""
        sku = servers.new_sku()
        ids = [place(servers, sku=sku, user_id=user).json()["order_id"] for _ in range(5)]
        found: list[str] = []
        query: dict[str, Any] = {"user_id": user, "limit": limit}
        while True:
            page = servers.order.get("/orders", **query).json()
            found += [order["order_id"] for order in page["items"]]
            assert len(page["items"]) <= limit
            if page["next_cursor"] is None:
                break
            place(servers, sku=sku, user_id=user)
            query["cursor"] = page["next_cursor"]
        assert found == ids[::-1]

    def test_user_without_orders_has_an_empty_list(self, servers: Servers, user: str) -> None:
        """An empty page, not 404."""
        assert servers.order.get("/orders", user_id=user).json() == {"items": [], "next_cursor": None}

    def test_timeline_tells_every_transition(self, servers: Servers) -> None:
        """Numbered without gaps, with times that never go back."""
        order_id = place(servers, sku=servers.new_sku()).json()["order_id"]
        assert timeline(servers, order_id) == [
            (1, "created", None),
            (2, "inventory_reserved", None),
            (3, "paid", None),
            (4, "completed", None),
        ]
        times = [event["created_at"] for event in servers.order.get(f"/orders/{order_id}/events").json()["events"]]
        assert times == sorted(times)

    def test_timeline_tells_the_reason(self, servers: Servers) -> None:
        """Why it failed is at the transition that decided it, and on the order."""
        problem = place(servers, sku=servers.new_sku(0)).json()
        assert timeline(servers, problem["order_id"]) == [(1, "created", None), (2, "failed", "out_of_stock")]
        assert servers.order.get(f"/orders/{problem['order_id']}").json()["reason"] == "out_of_stock"


def list_ids(servers: Servers, **query: object) -> list[str]:
    return [order["order_id"] for order in servers.order.get("/orders", **query).json()["items"]]


class TestCancelOrder:
    def test_completed_order_is_restocked_and_refunded(self, servers: Servers, books: Books) -> None:
        """200; once cancelled, cancelling again answers the same and does nothing."""
        sku = servers.new_sku(10)
        order_id = place(servers, sku=sku, quantity=4).json()["order_id"]
        answer = cancel(servers, order_id)
        assert (answer.status, answer.json()["status"], answer.json()["reason"]) == (
            200,
            "cancelled",
            "cancelled_by_caller",
        )
        again = cancel(servers, order_id)
        assert (again.status, again.json()) == (200, answer.json())
        assert stock_of(servers, sku) == 10
        assert books.gateway(order_id) == [("charge", 700), ("refund", 700)]
        assert payment_of(servers, order_id)["status"] == "refunded"
        assert timeline(servers, order_id)[3:] == [
            (4, "completed", None),
            (5, "cancelling", "cancelled_by_caller"),
            (6, "cancelled", "cancelled_by_caller"),
        ]

    def test_creator_of_an_order_cancelled_later_is_still_answered_201(self, servers: Servers, user: str) -> None:
        """The order was completed; a replay shows it as it is now."""
        sku = servers.new_sku(10)
        first = place(servers, "k", sku=sku, user_id=user)
        cancel(servers, first.json()["order_id"])
        again = place(servers, "k", sku=sku, user_id=user)
        assert (again.status, again.json()["status"]) == (201, "cancelled")

    @pytest.mark.parametrize(
        "asked", ["completed", "paid", "failed", "created", "cancelling", "bogus", "", "CANCELLED"]
    )
    def test_any_other_status_is_409_and_names_what_is_allowed(self, asked: str, servers: Servers) -> None:
        """The order stays as it is."""
        order = place(servers, sku=servers.new_sku()).json()
        answer = servers.order.patch("/orders", {"order_id": order["order_id"], "status": asked})
        problem = assert_problem(answer, 409, "invalid_transition")
        assert (problem["allowed"], problem["status_now"]) == (["cancelled"], "completed")
        assert "cancelled" in problem["detail"]
        assert servers.order.get(f"/orders/{order['order_id']}").json() == order

    def test_failed_order_cannot_be_cancelled(self, servers: Servers) -> None:
        """It says that nothing is allowed any more."""
        order_id = place(servers, sku=servers.new_sku(0)).json()["order_id"]
        assert assert_problem(cancel(servers, order_id), 409, "invalid_transition")["allowed"] == []

    def test_unknown_order_is_404(self, servers: Servers) -> None:
        """Also when asked for a status that does not exist."""
        assert_problem(cancel(servers, UNKNOWN_ID), 404, "order_not_found")
        answer = servers.order.patch("/orders", {"order_id": UNKNOWN_ID, "status": "bogus"})
        assert_problem(answer, 404, "order_not_found")

    def test_cancellation_overtakes_a_running_charge(
        self, servers: Servers, user: str, books: Books, threads: ThreadPoolExecutor
    ) -> None:
        """Whoever placed the order is told; whatever the gateway does in the end, the money and the stock come back."""
        sku = servers.new_sku(10)
        placing, order_id = start_slow_order(servers, threads, sku, user)
        assert cancel(servers, order_id).status in (200, 202)
        assert_problem(placing.result(), 409, "order_cancelled")
        wait_for(servers, order_id, "cancelled")
        books.settle()
        assert stock_of(servers, sku) == 10
        assert sum(amount if kind == "charge" else -amount for kind, amount in books.gateway(order_id)) == 0
        assert_problem(place(servers, "k", sku=sku, user_id=user, payment_method="tok_slow"), 409, "order_cancelled")

    def test_cancellation_with_an_unknown_charge_is_definite(self, servers: Servers, books: Books) -> None:
        """The gateway has never heard of the charge, and never makes it: the order is cancelled at once."""
        sku = servers.new_sku(10)
        order_id = place(servers, sku=sku, payment_method="tok_error").json()["order_id"]
        for _ in range(2):
            answer = cancel(servers, order_id)
            assert (answer.status, answer.json()["status"]) == (200, "cancelled")
        assert (stock_of(servers, sku), books.gateway(order_id)) == (10, [])
        assert payment_of(servers, order_id)["status"] == "voided"


def cancel(servers: Servers, order_id: str) -> Answer:
    return servers.order.patch("/orders", {"order_id": order_id, "status": "cancelled"})


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


def code_of(outcome: Mapping[str, Any]) -> str | None:
    return str(outcome["error"]["code"]) if outcome["error"] else None


class TestPayments:
    def test_charge_is_captured_once(self, servers: Servers, books: Books) -> None:
        """201; the same order again is the same payment; GET shows it."""
        order_id = new_order_id()
        first, again = (charge(servers, order_id) for _ in range(2))
        assert (first.status, first.json()["status"]) == (201, "captured")
        assert (again.status, again.json()) == (201, first.json())
        assert payment_of(servers, order_id) == first.json()
        assert books.gateway(order_id) == [("charge", 700)]

    def test_payment_says_whose_it_is(self, servers: Servers, user: str) -> None:
        """Who bought, if the charge said so; asking again without a user finds it, with another one is 422."""
        order_id = new_order_id()
        assert charge(servers, order_id, user_id=user).json()["user_id"] == user
        assert payment_of(servers, order_id)["user_id"] == user
        assert charge(servers, order_id).json()["user_id"] == user
        assert_problem(charge(servers, order_id, user_id="somebody else"), 422, "idempotency_mismatch")
        nobodys = new_order_id()
        for fields in ({}, {"user_id": user}):
            answer = charge(servers, nobodys, **fields)
            assert (answer.status, answer.json()["user_id"]) == (201, None)

    def test_cancelled_before_it_was_charged_is_nobodys(self, servers: Servers, user: str) -> None:
        """Whoever cancels does not know who would have bought."""
        order_id = new_order_id()
        assert cancel_payment(servers, order_id).json()["user_id"] is None
        assert_problem(charge(servers, order_id, user_id=user), 409, "payment_cancelled")

    @pytest.mark.parametrize("payment_method", ["tok_ok", "tok_timeout"])
    def test_payment_of_an_order_is_of_who_placed_it(self, payment_method: str, servers: Servers, user: str) -> None:
        """Also when the order is charged by itself, because nobody knew what became of the first charge."""
        order_id = place(servers, sku=servers.new_sku(), user_id=user, payment_method=payment_method).json()["order_id"]
        assert payment_of(servers, order_id)["user_id"] == user
        wait_for(servers, order_id, "completed")
        assert payment_of(servers, order_id)["user_id"] == user

    @pytest.mark.parametrize("other", [{"amount": 701}, {"currency": "EUR"}, {"payment_method": "tok_slow"}], ids=str)
    def test_same_order_with_another_charge_is_422(self, other: dict[str, Any], servers: Servers, books: Books) -> None:
        """Neither the new amount nor the old one is charged again."""
        order_id = new_order_id()
        charge(servers, order_id)
        assert_problem(charge(servers, order_id, **other), 422, "idempotency_mismatch")
        assert books.gateway(order_id) == [("charge", 700)]

    def test_declined_card_is_402_however_often(self, servers: Servers) -> None:
        """The same answer but for its request id; the payment can be read."""
        order_id = new_order_id()
        first, again = (charge(servers, order_id, payment_method="tok_declined") for _ in range(2))
        assert_problem(first, 402, "payment_declined")
        assert without_request_id(again) == without_request_id(first)
        assert (payment_of(servers, order_id)["status"], payment_of(servers, order_id)["reason"]) == (
            "declined",
            "card_declined",
        )

    def test_token_that_nobody_knows_is_declined(self, servers: Servers) -> None:
        """The sandbox does not charge cards that it has not heard of."""
        problem = assert_problem(charge(servers, new_order_id(), payment_method="tok_bogus"), 402, "payment_declined")
        assert problem["reason"] == "unknown_card"

    def test_lost_reply_is_202_and_found_later(self, servers: Servers, books: Books) -> None:
        """Nobody knows: pending, also when asked again; then the gateway is asked, and it was one charge."""
        order_id = new_order_id()
        answer = charge(servers, order_id, payment_method="tok_timeout")
        assert (answer.status, answer.json()["status"]) == (202, "pending")
        wait_until(lambda: payment_of(servers, order_id)["status"] == "captured")
        assert charge(servers, order_id, payment_method="tok_timeout").status == 201
        assert books.gateway(order_id) == [("charge", 700)]

    def test_charge_that_is_under_way_is_waited_for(
        self, servers: Servers, threads: ThreadPoolExecutor, books: Books
    ) -> None:
        """A second request for the order does not charge again; it waits for the charge that is being made."""
        order_id = new_order_id()
        first = threads.submit(charge, servers, order_id, payment_method="tok_slow")
        wait_until(lambda: servers.payment.get("/payments", order_id=order_id).status == 200)
        second = charge(servers, order_id, payment_method="tok_slow")
        assert (second.status, second.json()) == (201, first.result().json())
        assert books.gateway(order_id) == [("charge", 700)]

    def test_unknown_payment_is_404(self, servers: Servers) -> None:
        """To read, and to refund."""
        assert_problem(servers.payment.get("/payments", order_id=UNKNOWN_ID), 404, "payment_not_found")
        assert_problem(refund(servers, UNKNOWN_ID), 404, "payment_not_found")

    def test_refund_in_parts(self, servers: Servers, books: Books) -> None:
        """A part leaves the payment captured, the rest makes it refunded; more than the rest is 409."""
        order_id = new_order_id()
        charge(servers, order_id)
        part = refund(servers, order_id, amount=300)
        assert (part.status, part.json()["status"], part.json()["refunded_amount"]) == (200, "captured", 300)
        too_much = assert_problem(refund(servers, order_id, amount=401), 409, "refund_exceeds_charge")
        assert too_much["refundable"] == 400
        rest = refund(servers, order_id)
        assert (rest.status, rest.json()["status"], rest.json()["refunded_amount"]) == (200, "refunded", 700)
        assert_problem(refund(servers, order_id, amount=1), 409, "nothing_captured")
        assert books.gateway(order_id) == [("charge", 700), ("refund", 300), ("refund", 400)]

    def test_refund_takes_effect_once_for_a_request_id(self, servers: Servers, books: Books) -> None:
        """The payment as it is; the same id for another amount is 422; another id is another refund."""
        order_id = new_order_id()
        charge(servers, order_id)
        for _ in range(3):
            answer = refund(servers, order_id, amount=200, request_id="r")
            assert (answer.status, answer.json()["refunded_amount"]) == (200, 200)
        assert_problem(refund(servers, order_id, amount=100, request_id="r"), 422, "idempotency_mismatch")
        assert refund(servers, order_id, amount=200, request_id="s").json()["refunded_amount"] == 400
        assert books.gateway(order_id) == [("charge", 700), ("refund", 200), ("refund", 200)]

    def test_full_refund_takes_effect_once_for_a_request_id(self, servers: Servers, books: Books) -> None:
        """Repeated when there is nothing left, it is still answered with 200."""
        order_id = new_order_id()
        charge(servers, order_id)
        answers = [refund(servers, order_id, request_id="all") for _ in range(2)]
        assert [(answer.status, answer.json()["status"]) for answer in answers] == [(200, "refunded")] * 2
        assert books.gateway(order_id) == [("charge", 700), ("refund", 700)]

    def test_declined_payment_cannot_be_refunded(self, servers: Servers) -> None:
        """Nothing was captured."""
        order_id = new_order_id()
        charge(servers, order_id, payment_method="tok_declined")
        assert_problem(refund(servers, order_id), 409, "nothing_captured")

    def test_cancel_before_the_charge_keeps_it_from_happening(self, servers: Servers, books: Books) -> None:
        """200 voided, twice; the charge that comes late is a definite 409."""
        order_id = new_order_id()
        assert [cancel_payment(servers, order_id).json()["status"] for _ in range(2)] == ["voided", "voided"]
        assert_problem(charge(servers, order_id), 409, "payment_cancelled")
        assert_problem(refund(servers, order_id), 409, "nothing_captured")
        assert books.gateway(order_id) == []

    def test_cancel_after_the_charge_refunds_what_is_left(self, servers: Servers, books: Books) -> None:
        """200 refunded, twice; what was refunded before is not refunded again."""
        order_id = new_order_id()
        charge(servers, order_id)
        refund(servers, order_id, amount=300)
        answers = [cancel_payment(servers, order_id) for _ in range(2)]
        assert [(answer.status, answer.json()["status"]) for answer in answers] == [(200, "refunded")] * 2
        assert books.gateway(order_id) == [("charge", 700), ("refund", 300), ("refund", 400)]

    def test_cancel_of_a_declined_payment_leaves_it_declined(self, servers: Servers) -> None:
        """There is nothing to undo."""
        order_id = new_order_id()
        charge(servers, order_id, payment_method="tok_declined")
        answer = cancel_payment(servers, order_id)
        assert (answer.status, answer.json()["status"]) == (200, "declined")

    def test_cancel_of_an_unknown_charge_voids_it(self, servers: Servers, books: Books) -> None:
        """The gateway closes the key of a charge that it never heard of: nobody may charge it any more."""
        order_id = new_order_id()
        charge(servers, order_id, payment_method="tok_error")
        answer = cancel_payment(servers, order_id)
        assert (answer.status, answer.json()["status"]) == (200, "voided")
        assert_problem(charge(servers, order_id, payment_method="tok_error"), 409, "payment_cancelled")
        assert books.gateway(order_id) == []

    def test_batch_of_charges_has_an_outcome_each(self, servers: Servers, books: Books) -> None:
        """In order: captured, declined, unknown, and the same order twice, which is charged once."""
        one, two, three, voided = (new_order_id() for _ in range(4))
        cancel_payment(servers, voided)
        items = [
            {"order_id": one, "amount": 100},
            {"order_id": two, "amount": 100, "payment_method": "tok_declined"},
            {"order_id": three, "amount": 100, "payment_method": "tok_timeout"},
            {"order_id": voided, "amount": 100},
            {"order_id": one, "amount": 100},
            {"order_id": one, "amount": 101},
        ]
        answer = servers.payment.post("/payments/batch", {"items": items})
        outcomes = answer.json()["items"]
        assert answer.status == 200
        assert [outcome["status"] for outcome in outcomes] == [201, 402, 202, 409, 201, 422]
        assert [code_of(outcome) for outcome in outcomes] == [
            *(None, "payment_declined", None),
            *("payment_cancelled", None, "idempotency_mismatch"),
        ]
        assert outcomes[4] == outcomes[0]
        assert books.gateway(one) == [("charge", 100)]


def charge(servers: Servers, order_id: str, **fields: Any) -> Answer:
    return servers.payment.post("/payments", {"order_id": order_id, "amount": 700, **fields})


def refund(servers: Servers, order_id: str, **fields: Any) -> Answer:
    return servers.payment.post("/payments/refund", {"order_id": order_id, **fields})


def cancel_payment(servers: Servers, order_id: str) -> Answer:
    return servers.payment.post("/payments/cancel", {"order_id": order_id})
