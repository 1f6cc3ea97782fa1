"""The wire contract of the payment service, call by call, with each of its replies."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import Books, Servers, wait_until
from tests.e2e.contract import UNKNOWN_ID, code_of, new_order_id, payment_of, place, wait_for, without_request_id
from tests.e2e.raw import Answer, assert_problem


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
