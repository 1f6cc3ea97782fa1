"""Whatever a name, a field, an article or a key is called, it is only a name."""

import pytest

from tests.e2e.contract import UNKNOWN_ID
from tests.e2e.guarded import Guarded, Person
from tests.e2e.raw import assert_problem

HOSTILE = [
    "' OR '1'='1",
    "x' OR user_id='ann' -- ",
    "'; DROP TABLE orders; --",
    "%",
    "ann%",
    "_nn",
    "\\",
    "ann\\",
    '"; SELECT SLEEP(5) #',
    "%s",
    "%(x)s",
    "{0}",
    "${jndi:ldap://127.0.0.1/a}",
    "ann/*",
    "*/ann",
    "0",
    "ANN",
    "NULL",
    "<script>alert(1)</script>",
    "../../etc/passwd",
]


class TestInjection:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_a_subject_is_only_a_name(self, name: str, stack: Guarded, sku: str) -> None:
        """He buys, and sees what he bought and nothing of anybody else."""
        person = stack.person("hostile", sub=name.strip())
        order_id = person.bought(sku)
        orders = person.order.get("/orders?limit=200").json()["items"]
        assert {order["user_id"] for order in orders} == {name.strip()}
        assert order_id in {order["order_id"] for order in orders}
        assert person.payment.get(f"/payments?order_id={order_id}").status == 200

    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize("text", HOSTILE)
    def test_a_field_is_only_a_value(self, text: str, staff: Person, ann: Person, sku: str) -> None:
        """In every field a caller fills: a definite refusal, or nothing found."""
        answers = [
            ann.buy(sku, currency=f"{text}x"),
            ann.buy(sku, total_amount=text),
            ann.buy(sku, quantity=text),
            ann.buy(sku, user_id=text.strip()),
            ann.order.post("/orders", {"sku": sku, "total_amount": 700, text: 1}),
            ann.order.patch("/orders", {"order_id": text, "status": "cancelled"}),
            ann.order.get(f"/orders/{_quoted(text)}"),
            ann.order.get(f"/orders?order_id={_quoted(text)}"),
            ann.order.get(f"/orders?status={_quoted(text)}"),
            ann.order.get(f"/orders?cursor={_quoted(text)}"),
            ann.order.get(f"/orders?limit={_quoted('x' + text)}"),
            ann.inventory.get(f"/inventory/sku?sku={_quoted(text)}"),
            ann.payment.get(f"/payments?order_id={_quoted(text)}"),
            staff.inventory.post("/inventory/increase", {"sku": text.strip(), "quantity": 1, "request_id": "r"}),
            staff.payment.post("/payments/refund", {"order_id": text, "amount": 1}),
            staff.payment.post("/payments/refund", {"order_id": UNKNOWN_ID, "amount": 1, "request_id": text.strip()}),
        ]
        assert [answer.body for answer in answers if not 400 <= answer.status < 500] == []

    @pytest.mark.parametrize("text", HOSTILE)
    def test_an_article_or_a_key_is_only_a_name(self, text: str, ann: Person, staff: Person, stack: Guarded) -> None:
        """What does not exist is not found, whatever it is called; what is called so is sold."""
        name = text.strip()
        stock = stack.books.state()["inventory"]
        assert_problem(ann.buy(f"no {name}"), 404, "sku_not_found")
        assert stack.books.state()["inventory"] == stock
        made = staff.inventory.post("/inventory/create", {"product_id": name, "sku": name, "quantity": 3})
        assert made.status == 201
        order_id = ann.bought(name, key=name)
        assert ann.bought(name, key=name) == order_id
        assert ann.stock_of(_quoted(name)) == 2

    def test_the_tables_are_still_there(self, stack: Guarded, ann: Person, sku: str) -> None:
        """After all of that an order still goes through."""
        assert stack.books.state()["orders"][0] > 0
        ann.bought(sku)


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())
