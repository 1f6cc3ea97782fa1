"""The order service's own tokens, and the issuer's troubles, as buyers feel them: no order is lost or refused."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.database_server import DatabaseServer
from tests.e2e.conftest import wait_until
from tests.e2e.guarded import Guarded, Person, guarded_stack
from tests.e2e.raw import Server, assert_problem
from tests.forged_tokens import TokenForger
from tests.issuer_realm import SERVICE_SCOPE
from tests.processes import ServiceProcess

NONE = "01890000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def stack(database_server: DatabaseServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Without any skew: a token that has expired is of no use."""
    with guarded_stack(database_server, tmp_path_factory.mktemp("tokens"), AUTH_CLOCK_SKEW_S="0") as stack:
        yield stack


@pytest.fixture(autouse=True)
def as_usual(stack: Guarded) -> Iterator[None]:
    """Afterwards the issuer and the order service are what they were."""
    yield
    stack.issuer.behave(mode="up", lifetime_s=300)
    stack.issuer.set_client("order-service", "order-secret", SERVICE_SCOPE)
    restart(stack.services.order)
    stack.books.settle()


@pytest.fixture
def ann(stack: Guarded) -> Person:
    return stack.person("ann")


@pytest.fixture
def sku(stack: Guarded) -> str:
    return stack.staff().new_sku(10_000)


def restart(process: ServiceProcess, **settings: str) -> None:
    if settings or not process.is_as_usual or process.process.poll() is not None:
        process.stop()
        process.start(**settings)


def is_completed(person: Person, order_id: str) -> bool:
    return bool(person.order.get(f"/orders/{order_id}").json()["status"] == "completed")


def accepted(person: Person, sku: str) -> str:
    """The id of an order whose outcome is not known yet."""
    answer = person.buy(sku)
    assert answer.status == 202, answer.body
    return str(answer.json()["order_id"])


def test_one_token_does_for_many_orders(stack: Guarded, ann: Person, sku: str) -> None:
    """The order service fetches one when it needs it, and keeps it."""
    ann.bought(sku)
    before = stack.issuer.asked("token")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: ann.buy(sku).status, range(40))) == {201}
    assert stack.issuer.asked("token") == before


@pytest.mark.alone
@pytest.mark.parametrize("mode", ["refuse", "unavailable", "hang", "garbage"])
def test_the_issuer_is_down(mode: str, stack: Guarded, ann: Person, sku: str) -> None:
    """As long as tokens last nobody notices: neither the buyers, nor the order service."""
    ann.bought(sku)
    forged = stack.with_token(TokenForger.of(stack.issuer).with_header(kid="forged"))
    stack.issuer.behave(mode=mode)
    knocking = threading.Thread(target=lambda: forged.order.get("/orders"))
    knocking.start()
    started = time.monotonic()
    for _ in range(5):
        ann.bought(sku)
    assert time.monotonic() - started < 2.5
    knocking.join()


@pytest.mark.alone
def test_tokens_expire_under_load(stack: Guarded, ann: Person, sku: str) -> None:
    """Each lasts two seconds; for three seconds of orders none is sent too late."""
    stack.issuer.behave(lifetime_s=2)
    restart(stack.services.order, ORDER_LOG_LEVEL="INFO")
    before = stack.issuer.asked("token")
    until = time.monotonic() + 3

    def shop(_: int) -> Counter[int]:
        statuses: Counter[int] = Counter()
        while time.monotonic() < until:
            statuses[ann.buy(sku).status] += 1
        return statuses

    with ThreadPoolExecutor(4) as pool:
        statuses = sum(pool.map(shop, range(4)), Counter())
    assert set(statuses) == {201}
    assert 2 <= stack.issuer.asked("token") - before <= 6


@pytest.mark.alone
@pytest.mark.parametrize("mode", ["refuse", "hang"])
def test_the_issuer_is_down_for_longer_than_a_token_lasts(mode: str, stack: Guarded, ann: Person, sku: str) -> None:
    """Orders are accepted, in good time, and completed when it is back. Nothing is refused for want of a token."""
    stack.issuer.behave(lifetime_s=1)
    restart(stack.services.order, ORDER_LOG_LEVEL="INFO", ORDER_CHECKOUT_TIMEOUT_S="1.5")
    # Not necessarily within that time: the service has just started.
    first = str(ann.buy(sku).json()["order_id"])
    wait_until(lambda: is_completed(ann, first))
    stack.issuer.behave(mode=mode)
    time.sleep(1.1)
    started = time.monotonic()
    with ThreadPoolExecutor(6) as pool:
        orders = list(pool.map(lambda _: accepted(ann, sku), range(6)))
    assert time.monotonic() - started < 5
    stack.issuer.behave(mode="up", lifetime_s=300)
    for order_id in orders:
        wait_until(lambda order_id=order_id: is_completed(ann, order_id))  # type: ignore[misc]
        assert stack.books.gateway(order_id) == [("charge", 700)]


def test_a_wrong_secret(stack: Guarded, ann: Person, sku: str) -> None:
    """Orders wait, and are completed by a service that has the right one."""
    restart(stack.services.order, ORDER_AUTH_CLIENT_SECRET="guessed")
    with ThreadPoolExecutor(3) as pool:
        orders = list(pool.map(lambda _: accepted(ann, sku), range(3)))
    stock = stack.staff().stock_of(sku)
    assert stock == 10_000
    assert "guessed" not in stack.services.order.log.read_text(encoding="utf-8")
    stack.services.order.stop()
    stack.services.order.start()
    for order_id in orders:
        wait_until(lambda order_id=order_id: is_completed(ann, order_id))  # type: ignore[misc]
    assert stack.staff().stock_of(sku) == stock - 3


def test_a_service_without_its_scope(stack: Guarded, ann: Person, sku: str) -> None:
    """A client that may do nothing is refused, orders wait, and are completed when it may."""
    stack.issuer.behave(lifetime_s=1)
    stack.issuer.set_client("order-service", "order-secret", "stock:read")
    restart(stack.services.order, ORDER_LOG_LEVEL="INFO")
    order_id = accepted(ann, sku)
    stack.issuer.set_client("order-service", "order-secret", SERVICE_SCOPE)
    wait_until(lambda: is_completed(ann, order_id))


def test_the_issuer_withdraws_its_keys(stack: Guarded, ann: Person, sku: str) -> None:
    """Somebody has stolen one: it counts no more once a token has come with the new one. The order service, whose token
    was signed with the old one, gets itself another, and no order waits for it."""
    stolen = stack.with_token(TokenForger.of(stack.issuer).token())
    ann.bought(sku)
    assert stolen.inventory.get(f"/inventory/sku?sku={sku}").status == 200
    # A token is not exchanged for another one within the second that it was fetched in.
    time.sleep(1)
    stack.issuer.rotate(keep=False)
    staff = stack.staff()

    def is_known() -> bool:
        stock, payment = (
            staff.inventory.get(f"/inventory/sku?sku={sku}"),
            staff.payment.get(f"/payments?order_id={NONE}"),
        )
        return (stock.status, payment.status) == (200, 404)

    # A service does not look for new keys more often than every ten seconds.
    wait_until(is_known, 15)
    assert_problem(stolen.inventory.get(f"/inventory/sku?sku={sku}"), 401, "unauthenticated")
    assert_problem(stolen.payment.get(f"/payments?order_id={NONE}"), 401, "unauthenticated")
    asked = stack.issuer.asked("token")
    ann.bought(sku)
    assert stack.issuer.asked("token") == asked + 1


def test_a_service_waits_for_the_issuer(stack: Guarded, ann: Person) -> None:
    """Started while it is down it is alive, not ready, and says 503: neither yes nor no. Then it goes on by itself."""
    process = stack.services.order
    process.stop()
    stack.issuer.behave(mode="refuse")
    starting = threading.Thread(target=process.start)
    starting.start()
    server = Server(process.url)
    wait_until(lambda: _answers(server))
    problem = assert_problem(server.get("/readyz"), 503, "service_unavailable")
    assert stack.issuer.url in problem["detail"]
    answer = ann.order.get("/orders")
    assert_problem(answer, 503, "service_unavailable")
    assert answer.headers["Retry-After"]
    assert_problem(server.get("/orders"), 401, "unauthenticated")
    stack.issuer.behave(mode="up")
    starting.join(20)
    assert ann.order.get("/orders").status == 200


def _answers(server: Server) -> bool:
    try:
        return server.get("/livez").status == 200
    except OSError:
        return False
