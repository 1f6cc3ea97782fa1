"""The issuer that other tests rely on: it speaks OAuth2 and OpenID Connect as libraries of others understand it."""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest

from tests.forged_tokens import TokenForger, decode
from tests.issuer_keys import ALGORITHMS
from tests.issuer_process import BUYER, STAFF, IssuerProcess
from tests.issuer_realm import AUDIENCE, SERVICE_SCOPE


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IssuerProcess]:
    process = IssuerProcess(tmp_path_factory.mktemp("issuer")).start()
    try:
        yield process
    finally:
        process.stop()


def fetch(wanted: str | urllib.request.Request) -> Any:
    with urllib.request.urlopen(wanted, timeout=5) as reply:
        return json.load(reply)


def verify(issuer: IssuerProcess, token: str, audience: str = AUDIENCE) -> dict[str, Any]:
    """What another library makes of a token with the keys that the issuer publishes."""
    discovered = fetch(f"{issuer.url}/.well-known/openid-configuration")
    assert discovered["issuer"] == issuer.url
    key = jwt.PyJWKSet.from_dict(fetch(discovered["jwks_uri"]))[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, Any] = jwt.decode(token, key, ALGORITHMS, audience=audience, issuer=issuer.url)
    return claims


def refusal(ask: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask()
    with refused.value as answer:
        return answer.code, json.load(answer)["error"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tokens_of_users_are_as_keycloak_makes_them(algorithm: str, issuer: IssuerProcess) -> None:
    """Whatever the key: access tokens for the API, and ID tokens for the client."""
    kid = issuer.rotate(algorithm)
    tokens = issuer.user_tokens("ann", "openid", *BUYER)
    header, _ = decode(tokens["access_token"])
    assert header == {"alg": algorithm, "typ": "JWT", "kid": kid}
    claims = verify(issuer, tokens["access_token"])
    assert (claims["typ"], claims["sub"], claims["azp"]) == ("Bearer", "ann", "shop-web")
    assert claims["exp"] - claims["iat"] == 300
    assert set(claims["scope"].split()) == {"openid", *BUYER}
    assert claims["jti"]
    assert verify(issuer, tokens["id_token"], "shop-web")["typ"] == "ID"


def test_tokens_of_services_need_the_secret(issuer: IssuerProcess) -> None:
    """By either way of RFC 6749 to give it; a wrong one is refused."""
    claims = verify(issuer, issuer.service_token())
    assert (claims["scope"], claims["azp"]) == (SERVICE_SCOPE, "order-service")
    assert refusal(lambda: issuer.service_token(secret="guessed")) == (401, "invalid_client")

    def ask_with_basic(secret: str) -> Any:
        login = base64.b64encode(f"order-service:{secret}".encode()).decode()
        headers = {"Authorization": f"Basic {login}"}
        return fetch(urllib.request.Request(issuer.token_url, b"grant_type=client_credentials", headers))

    assert ask_with_basic("order-secret")["token_type"] == "Bearer"
    assert refusal(lambda: ask_with_basic("guessed")) == (401, "invalid_client")


def test_nobody_gets_scopes_that_are_not_his(issuer: IssuerProcess) -> None:
    """What the client may not have is an error, what the user may not have is left out: as Keycloak does it."""
    issuer.set_user("bob", "orders:read")
    form = {"grant_type": "password", "client_id": "shop-web", "username": "bob", "password": "password of bob"}
    _, claims = decode(issuer.ask(**form, scope=" ".join(STAFF))["access_token"])
    assert claims["scope"] == "orders:read"
    assert refusal(lambda: issuer.ask(**form, scope=SERVICE_SCOPE)) == (400, "invalid_scope")
    assert refusal(lambda: issuer.ask(**{**form, "password": "x"})) == (400, "invalid_grant")
    assert refusal(lambda: issuer.ask(**{**form, "grant_type": "magic"})) == (400, "unsupported_grant_type")
    public = {"grant_type": "client_credentials", "client_id": "shop-web"}
    assert refusal(lambda: issuer.ask(**public)) == (400, "unauthorized_client")


def test_rotation_keeps_or_drops_the_old_keys(issuer: IssuerProcess) -> None:
    """A token of a key that is kept verifies on; one of a key that is gone does not."""
    old = issuer.token("ann")
    issuer.rotate()
    verify(issuer, old)
    issuer.rotate("ES256", keep=False)
    with pytest.raises(KeyError):
        verify(issuer, old)
    verify(issuer, issuer.token("ann"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_forged_tokens_are_good_but_for_what_is_forged(algorithm: str, issuer: IssuerProcess) -> None:
    """Else an attack would be refused for a fault of the forger."""
    issuer.rotate(algorithm, keep=False)
    forger = TokenForger.of(issuer, algorithm)
    assert verify(issuer, forger.token())["sub"] == "mallory"
    with pytest.raises(jwt.ExpiredSignatureError):
        verify(issuer, forger.with_claims(exp=1))


def test_it_can_be_down(issuer: IssuerProcess) -> None:
    """While its port is closed, or it fails, tests can still talk to it and have it come back."""
    try:
        issuer.behave(mode="refuse")
        with pytest.raises(urllib.error.URLError, match="refused"):
            fetch(f"{issuer.url}/.well-known/openid-configuration")
        issuer.behave(mode="unavailable")
        with pytest.raises(urllib.error.HTTPError, match="503") as failure:
            issuer.service_token()
        failure.value.close()
        issuer.behave(mode="garbage")
        with pytest.raises(json.JSONDecodeError):
            fetch(f"{issuer.url}/protocol/openid-connect/certs")
    finally:
        issuer.behave(mode="up")
    before = issuer.asked("token")
    issuer.behave(lifetime_s=7)
    _, claims = decode(issuer.service_token())
    issuer.behave(lifetime_s=300)
    assert claims["exp"] - claims["iat"] == 7
    assert issuer.asked("token") == before + 1
