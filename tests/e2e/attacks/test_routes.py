"""Who may call a route: nobody without a token, no user without the scope, and only services what is internal."""

import pytest

from tests.e2e.contract import UNKNOWN_ID
from tests.e2e.forgeries import Forge
from tests.e2e.guarded import Guarded, Person, assert_forbidden
from tests.e2e.raw import Answer, assert_problem
from tests.issuer_process import STAFF
from tests.route_tables import ENDPOINTS, KIT_PATHS, Endpoint

USER_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if endpoint.route.access.scope is not None]
INTERNAL_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if endpoint.route.access.scope is None]

each_internal_route = pytest.mark.parametrize("endpoint", INTERNAL_ENDPOINTS, ids=str)
each_user_route = pytest.mark.parametrize("endpoint", USER_ENDPOINTS, ids=str)


def call(stack: Guarded, endpoint: Endpoint, token: str | None) -> Answer:
    """Call a route with a token and nothing else that is right: who may not call it must not even learn that."""
    path = endpoint.route.path.format(order_id=UNKNOWN_ID)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = None if endpoint.route.method == "GET" else b"{}"
    return stack.server(endpoint.service).call(endpoint.route.method, path, body, headers)


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
