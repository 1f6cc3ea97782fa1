"""Good tokens of others: what is another's does not exist, keys are each user's own, also when all come at once."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.e2e.contract import UNKNOWN_ID
from tests.e2e.forgeries import FORGERIES, Forge
from tests.e2e.guarded import Guarded, Person, assert_forbidden
from tests.e2e.raw import Answer, assert_problem
from tests.issuer_process import BUYER


class TestAnothersOrder:
    @pytest.mark.usefixtures("unchanged")
    def test_is_not_there(self, anns: str, eve: Person) -> None:
        """404 for each way to see it, word for word what is said of an order that does not exist."""
        for path in ("/orders/{}", "/orders?order_id={}", "/orders/{}/events"):
            answers = [eve.order.get(path.format(order_id)) for order_id in (anns, UNKNOWN_ID)]
            details = {assert_problem(answer, 404, "order_not_found")["detail"] for answer in answers}
            assert {detail.replace(anns, "ID").replace(UNKNOWN_ID, "ID") for detail in details} == {
                details.pop().replace(anns, "ID").replace(UNKNOWN_ID, "ID")
            }

    @pytest.mark.usefixtures("unchanged")
    def test_is_in_no_list(self, anns: str, eve: Person) -> None:
        """Neither in one's own list, nor in that of its owner, whichever way one asks for it."""
        for query in ("", "?user_id=ann", "?status=completed", "?user_id=ann&status=completed", "?limit=200"):
            answer = eve.order.get(f"/orders{query}")
            assert anns not in answer.body.decode()
            assert answer.status in (200, 403, 404)
            if answer.status == 200:
                assert answer.json()["items"] == []

    @pytest.mark.usefixtures("unchanged")
    def test_is_in_nothing_that_is_said_of_the_stock(self, anns: str, eve: Person, staff: Person, sku: str) -> None:
        """The ledger names the orders of everybody: it is for those who look after the stock."""
        assert anns in staff.inventory.get(f"/inventory/ledger?sku={sku}&limit=200").body.decode()
        assert_forbidden(eve.inventory.get(f"/inventory/ledger?sku={sku}"))
        for path in (f"/inventory/sku?sku={sku}", "/inventories?product_id=p"):
            answer = eve.inventory.get(path)
            assert answer.status == 200
            assert anns not in answer.body.decode()

    def test_is_not_behind_a_cursor(self, anns: str, ann: Person, eve: Person, sku: str) -> None:
        """Another's cursor continues one's own list."""
        ann.bought(sku)
        mine = eve.bought(sku)
        cursor = ann.order.get("/orders?limit=1").json()["next_cursor"]
        found = eve.order.get(f"/orders?limit=200&cursor={cursor}")
        assert {order["user_id"] for order in found.json()["items"]} <= {"eve"}
        assert anns not in found.body.decode()
        assert mine not in ann.order.get("/orders?limit=200").body.decode()

    @pytest.mark.usefixtures("unchanged")
    def test_cannot_be_cancelled(self, anns: str, eve: Person) -> None:
        """404, and it stays as it is."""
        for order_id in (anns, UNKNOWN_ID):
            answer = eve.order.patch("/orders", {"order_id": order_id, "status": "cancelled"})
            assert_problem(answer, 404, "order_not_found")

    @pytest.mark.usefixtures("unchanged")
    def test_payment_is_not_there(self, anns: str, eve: Person) -> None:
        for order_id in (anns, UNKNOWN_ID):
            assert_problem(eve.payment.get(f"/payments?order_id={order_id}"), 404, "payment_not_found")

    @pytest.mark.usefixtures("unchanged")
    def test_cannot_be_refunded(self, anns: str, stack: Guarded) -> None:
        """A buyer has not the scope. Who has it, and is no admin, may refund what is his own."""
        eve = stack.person("eve", *BUYER, "payments:refund")
        for order_id in (anns, UNKNOWN_ID):
            answer = eve.payment.post("/payments/refund", {"order_id": order_id, "amount": 1})
            assert_problem(answer, 404, "payment_not_found")
        assert_forbidden(stack.person("ann").payment.post("/payments/refund", {"order_id": anns, "amount": 1}))

    @pytest.mark.usefixtures("unchanged")
    def test_cannot_be_placed(self, eve: Person, sku: str) -> None:
        """403 for an order in somebody else's name."""
        for name in ("ann", "EVE", "eve2", "staff"):
            assert_problem(eve.buy(sku, user_id=name), 403, "forbidden")

    def test_ones_own_is_there(self, anns: str, ann: Person) -> None:
        """For ann all of this works, with her name and without it."""
        assert ann.order.get(f"/orders/{anns}").json()["user_id"] == "ann"
        assert ann.order.get(f"/orders/{anns}/events").status == 200
        assert ann.order.get(f"/orders?order_id={anns}").status == 200
        assert ann.order.get("/orders?user_id=ann&limit=200").body == ann.order.get("/orders?limit=200").body
        assert ann.payment.get(f"/payments?order_id={anns}").json()["amount"] == 700

    def test_staff_see_and_change_everybodys(self, ann: Person, staff: Person, sku: str) -> None:
        """With orders:admin; refunding takes payments:refund as well."""
        order_id = ann.bought(sku)
        assert staff.order.get(f"/orders/{order_id}").json()["user_id"] == "ann"
        assert staff.order.get("/orders?user_id=ann").json()["items"] != []
        assert staff.payment.post("/payments/refund", {"order_id": order_id, "amount": 1}).status == 200
        assert staff.order.patch("/orders", {"order_id": order_id, "status": "cancelled"}).status == 200
        assert staff.buy(sku, user_id="ann").json()["user_id"] == "ann"
        assert staff.buy(sku).json()["user_id"] == "staff"

    def test_admin_is_no_master_key(self, anns: str, stack: Guarded) -> None:
        """orders:admin says whose, not what: without the other scopes it opens nothing."""
        admin = stack.person("chief", "orders:admin")
        assert_forbidden(admin.order.get(f"/orders/{anns}"))
        assert_forbidden(admin.order.patch("/orders", {"order_id": anns, "status": "cancelled"}))
        assert_forbidden(admin.payment.get(f"/payments?order_id={anns}"))
        reader = stack.person("reader", "orders:admin", "orders:read")
        assert reader.order.get(f"/orders/{anns}").status == 200
        assert_forbidden(reader.order.patch("/orders", {"order_id": anns, "status": "cancelled"}))


class TestIdempotencyKeys:
    def test_the_same_key_of_two_users_is_two_keys(self, ann: Person, eve: Person, sku: str) -> None:
        """Each gets an order of his own, and each his own again when he repeats the request."""
        key = str(uuid4())
        first = {person.buy(sku, key=key).json()["order_id"]: name for name, person in (("ann", ann), ("eve", eve))}
        assert len(first) == 2
        for person in (ann, eve):
            again = person.buy(sku, key=key)
            assert again.headers["Idempotent-Replayed"] == "true"
            assert first[again.json()["order_id"]] == again.json()["user_id"]

    def test_a_key_does_not_tell_that_it_is_used(self, ann: Person, eve: Person, sku: str) -> None:
        """With another body the owner of the key gets 422; anybody else simply buys."""
        key = str(uuid4())
        ann.bought(sku, key=key)
        assert_problem(ann.buy(sku, key=key, quantity=2), 422, "idempotency_mismatch")
        assert eve.buy(sku, key=key, quantity=2).status == 201

    def test_with_the_name_and_without_it_is_one_request(self, ann: Person, sku: str) -> None:
        """The user comes from the token either way."""
        key = str(uuid4())
        order_id = ann.bought(sku, key=key)
        assert ann.buy(sku, key=key, user_id="ann").json()["order_id"] == order_id


class TestUnderConcurrency:
    def test_stock_is_sold_once_while_forgers_knock(self, stack: Guarded, staff: Person, forge: Forge) -> None:
        """Forty buyers want ten units, and as many forgers try: ten are sold, and every forger gets 401."""
        sku = staff.new_sku(10)
        buyers = [stack.person(f"buyer-{n}") for n in range(40)]
        forgers = [stack.with_token(FORGERIES[row](forge)) for row in list(FORGERIES)[:40]]
        with ThreadPoolExecutor(20) as pool:
            everybody = [person for pair in zip(buyers, forgers, strict=True) for person in pair]
            statuses = [answer.status for answer in pool.map(lambda person: person.buy(sku), everybody)]
        assert Counter(statuses) == {201: 10, 409: 30, 401: 40}
        assert staff.stock_of(sku) == 0

    def test_a_key_makes_one_order_however_often_it_comes_at_once(self, ann: Person, eve: Person, sku: str) -> None:
        """Twelve times from each of two users: two orders."""
        key = str(uuid4())
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda person: person.buy(sku, key=key), [ann, eve] * 12))
        assert {answer.status for answer in answers} <= {201, 202, 409}
        orders = {(answer.json()["user_id"], answer.json()["order_id"]) for answer in answers if answer.status < 300}
        assert {user for user, _ in orders} == {"ann", "eve"}
        assert len(orders) == 2

    def test_no_more_is_refunded_than_was_paid(self, ann: Person, staff: Person, stack: Guarded, sku: str) -> None:
        """Sixteen refunds of 100 at once, of a payment of 700: seven."""
        order_id = ann.bought(sku)
        refund = {"order_id": order_id, "amount": 100}

        def ask(n: int) -> Answer:
            while True:
                answer = staff.payment.post("/payments/refund", {**refund, "request_id": f"r{n}"})
                # While another one holds the payment nobody can say; the same request_id refunds once only.
                if answer.status not in (409, 503) or not answer.json()["retryable"]:
                    return answer
                time.sleep(0.05)

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(16)))
        # 202 while another one is on its way.
        assert Counter(answer.status < 300 for answer in answers) == {True: 7, False: 9}
        assert {answer.status for answer in answers} <= {200, 202, 409}
        stack.books.settle()
        assert sum(amount for kind, amount in stack.books.gateway(order_id) if kind == "refund") == 700


def test_nothing_is_left_undone(stack: Guarded) -> None:
    """After all the attacks the books come to rest."""
    stack.books.settle()
    assert stack.books.state()["orders"][0] > 0
