"""What the services measure of their own work: the saga, the calls between them, money, and what stands still."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from common.context import DEADLINE_HEADER
from tests.e2e.conftest import Books, Servers, wait_until
from tests.e2e.raw import Server
from tests.e2e.scraped import Growth, metric, samples
from tests.processes import ServiceProcess, Services, free_port
from vv.databases import Databases

# For an order, or a payment, that is to stand still while it is looked at.
LONG = {"RETRY_FIRST_S": "60", "RETRY_MOST_S": "60"}


def buy(server: Server, sku: str, **fields: Any) -> Any:
    return server.post("/orders", {"user_id": f"user-{uuid4().hex}", "sku": sku, "total_amount": 700, **fields}).json()


@pytest.fixture(autouse=True)
def _settled(books: Books) -> None:
    """What other tests left unfinished is not counted here."""
    books.settle()


@pytest.fixture
def alone(services: Services, migrated: Databases, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts one more instance of a service, which is forgotten after the test."""
    with ExitStack() as running:

        def start(service: str, **settings: str) -> Server:
            environment = {f"{service.upper()}_{name}": value for name, value in settings.items()}
            process = ServiceProcess(service, getattr(services, service).environment | environment, tmp_path / "log")
            running.callback(process.stop)
            return Server(process.start().url)

        yield start


class TestSaga:
    def test_each_step_of_an_order_is_measured(self, servers: Servers) -> None:
        """Once each, and under the outcome that it had for the order."""
        sku = servers.new_sku()
        durations = Growth(servers.order, "vv_saga_step_duration_seconds_count")
        outcomes = Growth(servers.order, "vv_saga_outcomes_total")
        order = buy(servers.order, sku)
        steps = [("ok", "accept"), ("ok", "take_stock"), ("captured", "charge"), ("ok", "write")]
        assert outcomes.seen() == dict.fromkeys(steps, 1)
        assert durations.seen() == dict.fromkeys([("ok", step) for _, step in steps], 1)
        servers.order.patch("/orders", {"order_id": order["order_id"], "status": "cancelled"})
        given_back = [("refunded", "return_money"), ("ok", "return_stock")]
        assert {key: outcomes.seen()[key] for key in given_back} == dict.fromkeys(given_back, 1)

    @pytest.mark.parametrize(
        ("fields", "step", "outcome", "grade"),
        [
            ({"quantity": 1_000}, "take_stock", "out_of_stock", "refused"),
            ({"payment_method": "tok_declined"}, "charge", "payment_declined", "refused"),
            ({"payment_method": "tok_timeout"}, "charge", "pending", "unknown"),
        ],
    )
    def test_refused_is_told_from_unknown(
        self, fields: dict[str, Any], step: str, outcome: str, grade: str, servers: Servers
    ) -> None:
        """A refusal has the code of its error; of what is pending nobody knows."""
        sku = servers.new_sku()
        durations = Growth(servers.order, "vv_saga_step_duration_seconds_count")
        outcomes = Growth(servers.order, "vv_saga_outcomes_total")
        buy(servers.order, sku, **fields)
        assert outcomes.seen()[outcome, step] >= 1
        assert durations.seen()[grade, step] >= 1

    def test_calls_to_a_service_that_is_not_there(self, servers: Servers, alone: Callable[..., Server]) -> None:
        """Each attempt, by the code of its error; from the tenth on the breaker is open, and says so."""
        order = alone("order", INVENTORY_URL=f"http://127.0.0.1:{free_port()}", CALL_TIMEOUT_S="1")
        sku = servers.new_sku()
        assert metric(order, "vv_client_breaker_open", callee="inventory") == 0
        found = []
        while not metric(order, "vv_client_breaker_open", callee="inventory"):
            found.append(buy(order, sku)["order_id"])
            assert len(found) < 10
        buy(order, sku)
        calls = "vv_client_call_duration_seconds_count"
        assert metric(order, calls, callee="inventory", outcome="service_unavailable") >= 10
        assert metric(order, calls, callee="inventory", outcome="circuit_open") >= 1
        assert metric(order, "vv_client_breaker_open", callee="payment") == 0

    def test_calls_that_are_answered(self, servers: Servers) -> None:
        """One to each service for an order that goes well."""
        sku = servers.new_sku()
        calls = Growth(servers.order, "vv_client_call_duration_seconds_count")
        buy(servers.order, sku)
        assert calls.seen() == {("inventory", "ok"): 1, ("payment", "ok"): 1}


class TestMoney:
    @pytest.mark.parametrize(
        ("method", "expected"),
        [
            ("tok_ok", {("charge", "approved"): 1}),
            ("tok_declined", {("charge", "declined"): 1}),
            ("tok_timeout", {("charge", "unknown"): 1, ("find", "approved"): 1}),
        ],
    )
    def test_each_call_to_the_gateway_is_measured(
        self, method: str, expected: dict[tuple[str, str], float], servers: Servers, books: Books
    ) -> None:
        """By what it came to; a charge whose reply was lost is found."""
        calls = Growth(servers.payment, "vv_gateway_call_duration_seconds_count")
        servers.payment.post("/payments", {"order_id": str(uuid4()), "amount": 700, "payment_method": method})
        books.settle()
        assert calls.seen() == expected

    def test_refunds(self, servers: Servers) -> None:
        """Are calls, too."""
        order_id = str(uuid4())
        servers.payment.post("/payments", {"order_id": order_id, "amount": 700})
        calls = Growth(servers.payment, "vv_gateway_call_duration_seconds_count")
        servers.payment.post("/payments/refund", {"order_id": order_id})
        assert calls.seen() == {("refund", "done"): 1}

    def test_a_gateway_that_takes_too_long(self, servers: Servers, alone: Callable[..., Server]) -> None:
        """Whoever gives up waiting has no answer: unknown, after as long as he waited."""
        payment = alone("payment", GATEWAY_TIMEOUT_S="0.2", SANDBOX_SLOW_S="5", **LONG)
        order_id = str(uuid4())
        payment.post("/payments", {"order_id": order_id, "amount": 700, "payment_method": "tok_slow"})
        name = "vv_gateway_call_duration_seconds"
        wait_until(lambda: metric(payment, f"{name}_count", call="charge", outcome="unknown") == 1)
        assert 0.2 <= metric(payment, f"{name}_sum", call="charge", outcome="unknown") < 2
        # Leave nothing behind that the tests after this one would wait for.
        assert servers.payment.post("/payments/cancel", {"order_id": order_id}).json()["status"] == "voided"


class TestStandingStill:
    def test_an_order_that_stands_still(self, servers: Servers, alone: Callable[..., Server]) -> None:
        """Is counted by a service that starts, and grows old."""
        nobody = f"http://127.0.0.1:{free_port()}"
        order = alone("order", INVENTORY_URL=nobody, CALL_TIMEOUT_S="0.2", **LONG)
        placed = buy(order, servers.new_sku())
        assert placed["status"] == "created"
        with a_fresh_look(alone, "order") as age:
            assert 0 < age < 60
        servers.order.patch("/orders", {"order_id": placed["order_id"], "status": "cancelled"})

    def test_a_payment_that_stands_still(self, servers: Servers, alone: Callable[..., Server]) -> None:
        """Likewise."""
        payment = alone("payment", **LONG)
        order_id = str(uuid4())
        payment.post("/payments", {"order_id": order_id, "amount": 700, "payment_method": "tok_error"})
        with a_fresh_look(alone, "payment") as age:
            assert 0 < age < 60
        servers.payment.post("/payments/cancel", {"order_id": order_id})


@contextmanager
def a_fresh_look(alone: Callable[..., Server], service: str) -> Iterator[float]:
    """How old the oldest unfinished order, or payment, is to an instance that has just started."""
    server = alone(service)
    name = f"vv_{service}s"
    wait_until(lambda: len(samples(server, f"{name}_unfinished")) > 0)
    yield metric(server, f"{name}_oldest_unfinished_age_seconds")


class TestBooks:
    def test_the_ledger_is_looked_at_all_the_time(self, servers: Servers, alone: Callable[..., Server]) -> None:
        """Rounds are counted, and SKUs; none of them drifts."""
        servers.new_sku()
        inventory = alone("inventory", DRIFT_CHECK_INTERVAL_S="0.05", DRIFT_CHECK_SKUS="3")
        wait_until(lambda: metric(inventory, "vv_ledger_rounds_total") >= 2)
        assert metric(inventory, "vv_ledger_checked_skus_total") >= 1
        assert metric(inventory, "vv_ledger_drift_skus") == 0

    def test_it_can_be_switched_off(self, alone: Callable[..., Server], migrated: Databases) -> None:
        """With an interval of 0."""
        inventory = alone("inventory", DRIFT_CHECK_INTERVAL_S="0")
        assert metric(inventory, "vv_ledger_rounds_total") == 0

    def test_who_stands_in_line_for_a_sku_is_measured(self, servers: Servers, books: Books) -> None:
        """While a stranger holds the SKU: one of a batch is put off, one alone gives up when its time is over."""
        sku = servers.new_sku()
        item = {"items": [{"sku": sku, "quantity": 1}], "request_id": uuid4().hex}
        in_line = Growth(servers.inventory, "vv_stock_lock_wait_seconds_count")
        with books.row_locked("inventory", "SELECT * FROM inventory WHERE sku = %s FOR UPDATE", sku):
            servers.inventory.post("/inventory/decrease/batch", {"items": [item]})
            assert in_line.seen() == {("put_off",): 1}
            servers.inventory.post("/inventory/decrease", {"sku": sku, "quantity": 1}, {DEADLINE_HEADER: "300"})
        assert in_line.seen() == {("put_off",): 1, ("gave_up",): 1}


class TestDatabase:
    def test_use_and_room_of_the_pool(self, servers: Servers) -> None:
        """The most connections that there may be, and how long each was held."""
        assert metric(servers.order, "vv_db_pool_connections_max") == 16
        held = Growth(servers.order, "vv_db_transaction_duration_seconds_count")
        buy(servers.order, servers.new_sku())
        assert sum(held.seen().values()) >= 2
