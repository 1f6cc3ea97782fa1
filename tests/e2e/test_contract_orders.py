"""The wire contract of the order service, call by call, with each of its replies."""

from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from tests.e2e.conftest import Books, Servers, wait_until
from tests.e2e.contract import UNKNOWN_ID, payment_of, place, stock_of, wait_for, without_request_id
from tests.e2e.raw import Answer, assert_problem


def timeline(servers: Servers, order_id: str) -> list[tuple[int, str, str | None]]:
    events = servers.order.get(f"/orders/{order_id}/events").json()["events"]
    return [(event["seq"], event["status"], event["reason"]) for event in events]


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
