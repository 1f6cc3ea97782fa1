"""What the tests' issuer knows, how it behaves, and the tokens that it makes: its protocol without HTTP."""

import base64
import binascii
import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote_plus
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from tests.issuer_keys import Keys

HOST = "127.0.0.1"
REALM = "/realms/shop"
AUDIENCE = "vv-ecommerce"
USER_SCOPES = frozenset(
    {
        "orders:write",
        "orders:read",
        "orders:admin",
        "stock:write",
        "stock:read",
        "payments:read",
        "payments:refund",
    }
)
SERVICE_SCOPE = "service:order"
_OPENID_SCOPES = frozenset({"openid", "profile", "email"})

Mode = Literal["up", "unavailable", "refuse", "hang", "garbage", "not_keys", "huge", "redirect", "other_issuer"]


class Behaviour(BaseModel):
    """How it behaves from now on.

    ``unavailable`` answers 503 to everything, ``refuse`` closes the port, ``hang`` never answers. The others leave
    the token endpoint alone: a JWKS that is no JSON (``garbage``), is JSON but none (``not_keys``), is of two megabytes
    (``huge``), or is a redirect to ``elsewhere`` (``redirect``), and a discovery document of ``other_issuer``.
    """

    model_config = ConfigDict(extra="forbid")

    mode: Mode = "up"
    lifetime_s: float = 300
    audience: str | list[str] = AUDIENCE
    elsewhere: str = "http://127.0.0.1:9/"


class User(BaseModel):
    model_config = ConfigDict(extra="forbid")

    password: str
    sub: str
    scopes: frozenset[str]


class Client(BaseModel):
    """Without a secret it is a public client, which has no token of its own."""

    model_config = ConfigDict(extra="forbid")

    secret: str | None
    scopes: frozenset[str]


class OAuthError(Exception):
    """A refusal of the token endpoint, as RFC 6749, 5.2 names them."""

    def __init__(self, error: str, description: str, *, challenge: bool = False) -> None:
        super().__init__(description)
        self.body = {"error": error, "error_description": description}
        self.status = 401 if error == "invalid_client" else 400
        self.headers = {"WWW-Authenticate": 'Basic realm="shop"'} if challenge else {}


@dataclass
class Issuer:
    """What it knows, and the tokens that it makes of it."""

    url: str
    keys: Keys = field(default_factory=Keys)
    behaviour: Behaviour = field(default_factory=Behaviour)
    users: dict[str, User] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.clients["shop-web"] = Client(secret=None, scopes=USER_SCOPES)
        self.clients["order-service"] = Client(secret="order-secret", scopes=frozenset({SERVICE_SCOPE}))

    def discovery(self) -> dict[str, Any]:
        other = self.behaviour.mode == "other_issuer"
        protocol = f"{self.url}/protocol/openid-connect"
        return {
            "issuer": "http://other.invalid/realms/shop" if other else self.url,
            "authorization_endpoint": f"{protocol}/auth",
            "token_endpoint": f"{protocol}/token",
            "jwks_uri": f"{protocol}/certs",
            "grant_types_supported": ["client_credentials", "password"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "PS256", "ES256", "EdDSA"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "scopes_supported": sorted(USER_SCOPES | _OPENID_SCOPES | {SERVICE_SCOPE}),
            "claims_supported": ["aud", "sub", "iss", "preferred_username"],
        }

    def grant(self, form: Mapping[str, str], authorization: str | None) -> dict[str, Any]:
        """The answer of the token endpoint to a form."""
        client_id = self._authenticate(form, authorization)
        match form.get("grant_type"):
            case "client_credentials":
                return self._service_token(client_id, form)
            case "password":
                return self._user_token(client_id, form)
            case None:
                raise OAuthError("invalid_request", "Missing form parameter: grant_type")
        raise OAuthError("unsupported_grant_type", "Unsupported grant_type")

    def _authenticate(self, form: Mapping[str, str], authorization: str | None) -> str:
        client_id, secret = form.get("client_id"), form.get("client_secret")
        if authorization is not None:
            if secret is not None:
                raise OAuthError("invalid_request", "Client credentials must be given in one way only")
            client_id, secret = _basic(authorization)
        client = self.clients.get(client_id or "")
        if client is None or client_id is None or client.secret != secret:
            challenge = authorization is not None
            raise OAuthError("invalid_client", "Invalid client or Invalid client credentials", challenge=challenge)
        return client_id

    def _service_token(self, client_id: str, form: Mapping[str, str]) -> dict[str, Any]:
        client = self.clients[client_id]
        if client.secret is None:
            raise OAuthError("unauthorized_client", "Public client not allowed to retrieve service account")
        scopes = _asked_for(form, client.scopes) & client.scopes
        claims = {"sub": f"service-account-{client_id}", "client_id": client_id, "clientHost": HOST}
        return self._answer(self._access_claims(client_id, scopes, claims), scopes)

    def _user_token(self, client_id: str, form: Mapping[str, str]) -> dict[str, Any]:
        name = form.get("username", "")
        user = self.users.get(name)
        if user is None or user.password != form.get("password"):
            raise OAuthError("invalid_grant", "Invalid user credentials")
        # As Keycloak does it: what the client may not have is an error, what the user may not have is left out.
        asked = _asked_for(form, self.clients[client_id].scopes | _OPENID_SCOPES, user.scopes)
        scopes = asked & (user.scopes | _OPENID_SCOPES)
        claims = self._access_claims(client_id, scopes, {"sub": user.sub, "preferred_username": name, "sid": _new_id()})
        answer = self._answer(claims, scopes)
        if "openid" in scopes:
            answer["id_token"] = self.keys.signing.sign(_id_claims(claims, client_id, answer["access_token"]))
        return answer

    def _access_claims(self, client_id: str, scopes: frozenset[str], more: Mapping[str, Any]) -> dict[str, Any]:
        now = time.time()
        return {
            "exp": int(now + self.behaviour.lifetime_s),
            "iat": int(now),
            "jti": _new_id(),
            "iss": self.url,
            "aud": self.behaviour.audience,
            "typ": "Bearer",
            "azp": client_id,
            "acr": "1",
            "scope": " ".join(sorted(scopes)),
            **more,
        }

    def _answer(self, claims: dict[str, Any], scopes: frozenset[str]) -> dict[str, Any]:
        return {
            "access_token": self.keys.signing.sign(claims),
            "expires_in": claims["exp"] - claims["iat"],
            "refresh_expires_in": 0,
            "token_type": "Bearer",
            "not-before-policy": 0,
            "scope": " ".join(sorted(scopes)),
        }


def _basic(authorization: str) -> tuple[str, str]:
    try:
        scheme, _, encoded = authorization.partition(" ")
        login, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (UnicodeError, binascii.Error):
        scheme = login = secret = ""
    if scheme.lower() != "basic":
        raise OAuthError("invalid_client", "The Authorization header is not Basic", challenge=True)
    # RFC 6749, 2.3.1: both are encoded as in a form before they are joined.
    return unquote_plus(login), unquote_plus(secret)


def _asked_for(form: Mapping[str, str], known: frozenset[str], usual: frozenset[str] | None = None) -> frozenset[str]:
    scopes = frozenset(form.get("scope", "").split())
    if scopes - known:
        raise OAuthError("invalid_scope", f"Invalid scopes: {form['scope']}")
    return scopes or (known if usual is None else usual & known)


def _id_claims(access: Mapping[str, Any], client_id: str, token: str) -> dict[str, Any]:
    half = hashlib.sha256(token.encode()).digest()[:16]
    shared = {name: access[name] for name in ("exp", "iat", "iss", "sub", "azp", "sid", "preferred_username")}
    return {
        **shared,
        "jti": _new_id(),
        "aud": client_id,
        "typ": "ID",
        "auth_time": access["iat"],
        "at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode(),
    }


def _new_id() -> str:
    return str(uuid4())
