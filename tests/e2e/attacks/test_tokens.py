"""Forged tokens and tokens in the wrong place open nothing, and nothing secret is told of them."""

import re
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from uuid_utils import uuid7

from tests.e2e.attacks.conftest import assert_nothing_secret_was_logged
from tests.e2e.conftest import wait_until
from tests.e2e.forgeries import FORGERIES, GOOD, LONG, Forge
from tests.e2e.guarded import Guarded, Person, Trap
from tests.e2e.raw import Answer, Server, assert_problem, read_answer
from tests.e2e.scraped import Growth, samples
from tests.issuer_realm import SERVICE_SCOPE


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
        assert_nothing_secret_was_logged(stack, ann, forge)

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
        page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
        assert [reason for reason in found if f"`{reason}`" not in page] == []

    def test_a_line_says_who_called(self, stack: Guarded, sku: str) -> None:
        """The user of a token, and the order service for its own calls."""
        name = f"logged-{uuid4().hex[:8]}"
        stack.person(name).bought(sku)
        wait_until(lambda: any(line.get("caller") == f"user:{name}" for line in stack.log_lines()))
        callers = {(line["service"], line["caller"]) for line in stack.log_lines() if line.get("caller")}
        assert {("inventory", SERVICE_SCOPE), ("payment", SERVICE_SCOPE)} <= callers
