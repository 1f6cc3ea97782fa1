"""The table of attacks with the answer that each must get, against real services with their doors locked.

Forged tokens are in forgeries.py, a row each; here is what is done with them, and with good tokens of others.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from uuid_utils import uuid7

from tests.database_server import DatabaseServer
from tests.e2e.conftest import wait_until
from tests.e2e.forgeries import FORGERIES, GOOD, LONG, Forge
from tests.e2e.guarded import Guarded, Person, Trap, guarded_stack
from tests.e2e.raw import Answer, Server, assert_problem, read_answer
from tests.e2e.scraped import Growth, samples
from tests.issuer_process import BUYER, STAFF
from tests.issuer_realm import SERVICE_SCOPE
from tests.route_tables import ENDPOINTS, KIT_PATHS, Endpoint

USER_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if endpoint.route.access.scope is not None]
INTERNAL_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if endpoint.route.access.scope is None]
UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"

each_internal_route = pytest.mark.parametrize("endpoint", INTERNAL_ENDPOINTS, ids=str)
each_user_route = pytest.mark.parametrize("endpoint", USER_ENDPOINTS, ids=str)


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    """An attacker's server, to which nobody may ever go."""
    with Trap() as trap:
        yield trap
        assert trap.visits == 0


@pytest.fixture(scope="module")
def stack(database_server: DatabaseServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_stack(database_server, tmp_path_factory.mktemp("attacked")) as stack:
        yield stack


@pytest.fixture(scope="module")
def forge(stack: Guarded, trap: Trap) -> Forge:
    return Forge.of(stack.issuer, trap.url)


@pytest.fixture(scope="module")
def staff(stack: Guarded) -> Person:
    return stack.staff()


@pytest.fixture(scope="module")
def ann(stack: Guarded) -> Person:
    return stack.person("ann")


@pytest.fixture(scope="module")
def eve(stack: Guarded) -> Person:
    """A buyer with every right of a buyer, who is curious about ann."""
    return stack.person("eve")


@pytest.fixture(scope="module")
def sku(staff: Person) -> str:
    return staff.new_sku(100_000)


@pytest.fixture(scope="module")
def anns(ann: Person, sku: str) -> str:
    """An order of ann's."""
    return ann.bought(sku)


@pytest.fixture
def unchanged(stack: Guarded) -> Iterator[None]:
    """Whatever the test does leaves no trace in any table."""
    before = stack.books.state()
    yield
    assert stack.books.state() == before


def call(stack: Guarded, endpoint: Endpoint, token: str | None) -> Answer:
    """Call a route with a token and nothing else that is right: who may not call it must not even learn that."""
    path = endpoint.route.path.format(order_id=UNKNOWN_ID)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = None if endpoint.route.method == "GET" else b"{}"
    return stack.server(endpoint.service).call(endpoint.route.method, path, body, headers)


def attempts(person: Person, sku: str) -> list[Answer]:
    """What somebody does who has got in: he buys, adds stock, and takes it away behind the order service's back."""
    return [
        person.buy(sku),
        person.inventory.post("/inventory/increase", {"sku": sku, "quantity": 5, "request_id": str(uuid4())}),
        person.inventory.post("/inventory/decrease", {"sku": sku, "quantity": 5, "request_id": str(uuid4())}),
        person.payment.post("/payments", {"order_id": str(uuid7()), "amount": 700}),
    ]


def assert_unauthenticated(answer: Answer) -> None:
    """401, which says that it is the token's fault, and nothing that could not be said in a header."""
    problem = assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert problem["retryable"] is False


def assert_forbidden(answer: Answer) -> None:
    assert_problem(answer, 403, "forbidden")
    assert answer.headers["WWW-Authenticate"].startswith('Bearer error="insufficient_scope"')


class TestForgedTokens:
    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize("row", FORGERIES)
    def test_a_forged_token_opens_nothing(self, row: str, forge: Forge, stack: Guarded, sku: str) -> None:
        """401 on every route, also on the internal ones, though it claims every scope that there is."""
        for answer in attempts(stack.with_token(FORGERIES[row](forge)), sku):
            assert_unauthenticated(answer)

    @pytest.mark.parametrize("row", GOOD)
    def test_a_good_token_opens_what_it_should(self, row: str, forge: Forge, stack: Guarded, sku: str) -> None:
        """Else the table would prove nothing: the same forger's token is taken, if nothing is wrong with it."""
        assert [answer.status for answer in attempts(stack.with_token(GOOD[row](forge)), sku)] == [201, 200, 200, 201]

    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize("row", LONG)
    def test_a_token_that_is_too_long_for_http(self, row: str, forge: Forge, stack: Guarded, sku: str) -> None:
        """It is no header: 400, before anybody looks at it, and without repeating it."""
        token = LONG[row](forge)
        for answer in attempts(stack.with_token(token), sku):
            assert_problem(answer, 400, "malformed_http")
            assert token[:8] not in answer.body.decode()

    @pytest.mark.usefixtures("forge")
    def test_nobody_went_to_the_attacker(self, trap: Trap) -> None:
        """Whatever a token says of where its key is, keys come from the issuer."""
        assert trap.visits == 0


# What is sent besides the good token, if anything, and how; the answer's status.
HEADERS: dict[str, tuple[Callable[[str], str], int]] = {
    "nothing": (lambda _: "", 401),
    "lower case": (lambda good: f"authorization: bearer {good}", 200),
    "capitals": (lambda good: f"AUTHORIZATION: BEARER {good}", 200),
    "two blanks": (lambda good: f"Authorization: Bearer  {good}", 200),
    "a tab": (lambda good: f"Authorization: Bearer\t{good}", 401),
    "no scheme": (lambda good: f"Authorization: {good}", 401),
    "no token": (lambda _: "Authorization: Bearer", 401),
    "no value": (lambda _: "Authorization:", 401),
    "Basic": (lambda _: "Authorization: Basic b3JkZXItc2VydmljZTpvcmRlci1zZWNyZXQ=", 401),
    "Basic with the token": (lambda good: f"Authorization: Basic {good}", 401),
    "Token": (lambda good: f"Authorization: Token {good}", 401),
    "DPoP": (lambda good: f"Authorization: DPoP {good}", 401),
    "quotes": (lambda good: f'Authorization: Bearer "{good}"', 401),
    "the token and a word": (lambda good: f"Authorization: Bearer {good} x", 401),
    "two tokens": (lambda good: f"Authorization: Bearer {good}, Bearer {good}", 401),
    "two headers": (lambda good: f"Authorization: Bearer {good}\r\nAuthorization: Bearer {good}", 401),
    "a good and a bad header": (lambda good: f"Authorization: Bearer {good}\r\nAuthorization: Bearer x", 401),
    "a bad and a good header": (lambda good: f"Authorization: Basic eDp5\r\nauthorization: Bearer {good}", 401),
    "a cookie": (lambda good: f"Cookie: access_token={good}; Authorization=Bearer {good}", 401),
    "the proxy's header": (lambda good: f"Proxy-Authorization: Bearer {good}", 401),
    "what gateways say": (
        lambda _: "X-User: ann\r\nX-Forwarded-User: ann\r\nX-Remote-User: ann\r\nRemote-User: ann",
        401,
    ),
    "what TLS proxies say": (lambda _: "X-SSL-Client-S-DN: CN=operator\r\nX-Client-Cert: order", 401),
    "another method": (lambda good: f"X-HTTP-Method-Override: GET\r\nX-Authorization: Bearer {good}", 401),
    "not ASCII": (lambda good: f"Authorization: Bearer {good}é", 401),
    "wide digits": (lambda _: "Authorization: Bearer \uff11.\uff12.\uff13", 401),
    "a folded header": (lambda good: f"Authorization: Bearer\r\n {good}", 400),
    "a blank before the colon": (lambda good: f"Authorization : Bearer {good}", 400),
    "NUL": (lambda good: f"Authorization: Bearer {good}\0", 400),
}


class TestHowATokenIsSent:
    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize("row", HEADERS)
    def test_only_one_bearer_header_counts(self, row: str, stack: Guarded, ann: Person, sku: str) -> None:
        """A good token in the wrong place is no token, and of two headers none counts."""
        make, status = HEADERS[row]
        lines = make(str(ann.token))
        head = f"GET /inventory/sku?sku={sku} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        answer = stack.server("inventory").send(f"{head}{lines}\r\n\r\n".replace("\r\n\r\n\r\n", "\r\n\r\n").encode())
        assert answer.status == status, answer.body
        if status == 401:
            assert_problem(answer, 401, "unauthenticated")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize("name", ["access_token", "token", "Authorization", "bearer"])
    def test_a_token_in_the_address_does_not_count(self, name: str, stack: Guarded, ann: Person) -> None:
        """Addresses end up in logs and histories: RFC 9700, section 4.3.2."""
        answer = stack.server("order").call("GET", f"/orders?{name}={ann.token}")
        assert_problem(answer, 401, "unauthenticated")

    @pytest.mark.usefixtures("unchanged")
    def test_a_token_in_the_body_does_not_count(self, stack: Guarded, ann: Person, sku: str) -> None:
        """Neither as JSON nor as a form, which RFC 6750 would allow."""
        server = stack.server("order")
        body = {"sku": sku, "total_amount": 700, "access_token": ann.token}
        assert_problem(server.post("/orders", body), 401, "unauthenticated")
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert_problem(
            server.call("POST", "/orders", f"access_token={ann.token}".encode(), form), 401, "unauthenticated"
        )

    @pytest.mark.usefixtures("unchanged")
    def test_a_token_counts_for_its_own_request_only(self, stack: Guarded, ann: Person) -> None:
        """The next request of the same connection has to have one of its own."""
        lines = f"GET /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ann.token}\r\n\r\n"
        with stack.server("order").connect() as connection:
            connection.sendall(lines.encode())
            assert read_answer(connection).status == 200
            connection.sendall(b"GET /orders HTTP/1.1\r\nHost: x\r\n\r\n")
            assert_problem(read_answer(connection), 401, "unauthenticated")


class TestWhoMayCallARoute:
    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
    def test_nobody_without_a_token(self, endpoint: Endpoint, stack: Guarded) -> None:
        """401 before anything else, whatever is wrong with the request besides."""
        answer = call(stack, endpoint, None)
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    @pytest.mark.usefixtures("unchanged")
    @each_user_route
    def test_no_user_without_the_scope(self, endpoint: Endpoint, stack: Guarded) -> None:
        """403 which names the scope, though the token has all the others."""
        scope = str(endpoint.route.access.scope)
        token = stack.issuer.token("half", *(other for other in STAFF if other != scope))
        answer = call(stack, endpoint, token)
        assert_forbidden(answer)
        assert f'scope="{scope}"' in answer.headers["WWW-Authenticate"]

    @each_user_route
    def test_a_user_with_the_scope(self, endpoint: Endpoint, stack: Guarded) -> None:
        """That one scope is enough to get in: what is wrong then is the request."""
        token = stack.issuer.token("one", str(endpoint.route.access.scope))
        assert call(stack, endpoint, token).status in (200, 400, 404, 415, 422)

    @pytest.mark.usefixtures("unchanged")
    @each_internal_route
    def test_no_user_on_internal_routes(self, endpoint: Endpoint, stack: Guarded, staff: Person, ann: Person) -> None:
        """403 for buyers and for staff: these routes are for the order service."""
        for person in (ann, staff):
            assert_forbidden(call(stack, endpoint, person.token))

    @pytest.mark.usefixtures("unchanged")
    @each_internal_route
    @pytest.mark.parametrize(
        "scope",
        ["service:payment", "service:inventory", "service:gateway", "service:", "service:*", "service:orders",
         "SERVICE:ORDER", "service:order,", "xservice:order", "order", "internal", "admin", "*", ""],
    )  # fmt: skip
    def test_no_scope_that_looks_like_the_services(
        self, scope: str, endpoint: Endpoint, forge: Forge, stack: Guarded
    ) -> None:
        """Only the whole name counts."""
        assert_forbidden(call(stack, endpoint, forge.own.with_claims(scope=f"{scope} openid")))

    @pytest.mark.usefixtures("unchanged")
    @each_user_route
    def test_no_service_on_routes_of_users(self, endpoint: Endpoint, stack: Guarded) -> None:
        """The order service's own token opens what the order service needs, and no more."""
        assert_forbidden(call(stack, endpoint, stack.issuer.service_token()))

    @each_internal_route
    def test_the_order_service_on_internal_routes(self, endpoint: Endpoint, stack: Guarded) -> None:
        """It gets in: what is wrong then is the request."""
        assert call(stack, endpoint, stack.issuer.service_token()).status in (415, 422)

    @pytest.mark.parametrize("service", ["order", "inventory", "payment"])
    def test_what_is_open_to_all(self, service: str, stack: Guarded) -> None:
        """Health, metrics and the documents, for who is let in by the network: no token is asked for."""
        for path in KIT_PATHS:
            assert stack.server(service).get(path).status == 200

    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize(
        "path",
        ["/orders/", "//orders", "/orders/.", "/./orders", "/%6frders", "/ORDERS", "/orders;x", "/livez/../orders"],
    )
    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "QUERY"])
    def test_no_other_way_in(self, method: str, path: str, stack: Guarded, sku: str) -> None:
        """No spelling of a path and no method leads around the question of who calls."""
        body = f'{{"user_id": "ann", "sku": "{sku}", "total_amount": 1}}'.encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        answer = stack.server("order").send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert answer.status in (400, 401, 404, 405)


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


class TestLogs:
    @pytest.mark.parametrize(
        "request_id", ["a%0d%0ab", "a\tb", 'a","event":"forged', "\x1b[2Jx", "é", "a" * 65, "\u2028", "${jndi:x}"]
    )
    def test_a_request_id_is_plain_or_not_taken(self, request_id: str, stack: Guarded) -> None:
        """What could be taken for something else in a log or a header is replaced."""
        answer = stack.server("order").call("GET", "/orders", None, {"X-Request-ID": request_id})
        assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["X-Request-ID"])

    @pytest.mark.parametrize("line_break", ["\r\n", "\n", "\r"])
    def test_a_header_cannot_be_broken_in_two(self, line_break: str, stack: Guarded) -> None:
        """What follows a line break is at best a header of the request, and never one of the answer."""
        lines = (
            f"GET /orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-ID: mine{line_break}X-Evil: 1\r\n\r\n"
        )
        answer = stack.server("order").send(lines.encode())
        assert answer.status in (400, 401)
        assert answer.headers["X-Evil"] is None

    @pytest.mark.parametrize(
        "path",
        ["/orders/%0d%0aX-Evil:%201", "/%0a%7b%22event%22:%22forged%22%7d", "/orders?cursor=%0d%0aX-Evil:1",
         "/orders?%0aevil=1", "/%1b%5b2J", "/%e2%80%a8", "/%ff%fe", "/%00"],
    )  # fmt: skip
    def test_a_path_cannot_break_out(self, path: str, ann: Person) -> None:
        """Neither into the headers of the answer nor into the log."""
        answer = ann.order.get(path)
        assert answer.status in (400, 404, 422)
        assert answer.headers["X-Evil"] is None

    def test_each_line_is_one_object_with_nothing_secret(self, stack: Guarded, ann: Person, forge: Forge) -> None:
        """After everything above: no line was forged, none holds a token, and none tells of an unexpected error."""
        wait_until(lambda: any(line.get("caller") == "user:ann" for line in stack.log_lines()))
        lines = stack.log_lines()
        assert {line["event"] for line in lines} & {"forged"} == set()
        assert {line["service"] for line in lines} == {"order", "inventory", "payment"}
        assert [line for line in lines if line["event"] == "internal_error" or "exception" in line] == []
        text = "".join(service.log.read_text(encoding="utf-8") for service in stack.services.all)
        assert str(ann.token) not in text
        assert str(ann.token).split(".")[2] not in text
        assert "eyJ" not in text
        assert "order-secret" not in text
        assert forge.attacker_url not in text

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ("RS256 by a foreign key with our kid", "wrong_signature"),
            ("HS256 with an empty secret", "wrong_algorithm"),
            ("kid is the attacker's URL", "unknown_key"),
            ("kid is missing", "malformed"),
            ("iss of somebody else", "wrong_issuer"),
            ("aud of somebody else", "wrong_audience"),
            ("expired long ago", "expired"),
            ("nbf in the future", "not_yet_valid"),
        ],
    )
    def test_what_was_wrong_is_counted(self, row: str, reason: str, forge: Forge, stack: Guarded) -> None:
        """In one word, from which nothing of the token can be told."""
        server = Server(stack.services.order.url)
        refusals = Growth(server, "vv_auth_refusals_total")
        stack.with_token(FORGERIES[row](forge)).order.get("/orders")
        assert refusals.seen() == {(reason,): 1}

    def test_who_may_not_is_counted(self, stack: Guarded, ann: Person) -> None:
        """Nobody, a user without the scope, and a user on a route of services."""
        server = Server(stack.services.inventory.url)
        refusals = Growth(server, "vv_auth_refusals_total")
        server.get("/inventory/sku", sku="x")
        ann.inventory.post("/inventory/increase", {})
        ann.inventory.post("/inventory/rollback", {})
        assert refusals.seen() == {("no_token",): 1, ("lacks_scope",): 1, ("services_only",): 1}

    def test_reasons_are_few(self, stack: Guarded) -> None:
        """However many ways there were to forge a token: what an attacker sends makes no time series of its own."""
        found = {
            sample["reason"]
            for service in stack.services.all
            for sample in samples(Server(service.url), "vv_auth_refusals_total")
        }
        page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
        assert [reason for reason in found if f"`{reason}`" not in page] == []

    def test_a_line_says_who_called(self, stack: Guarded, sku: str) -> None:
        """The user of a token, and the order service for its own calls."""
        name = f"logged-{uuid4().hex[:8]}"
        stack.person(name).bought(sku)
        wait_until(lambda: any(line.get("caller") == f"user:{name}" for line in stack.log_lines()))
        callers = {(line["service"], line["caller"]) for line in stack.log_lines() if line.get("caller")}
        assert {("inventory", SERVICE_SCOPE), ("payment", SERVICE_SCOPE)} <= callers


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
