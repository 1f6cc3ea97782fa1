"""The issuer of ``tests/issuer.py`` as a real process, told by the tests what to do."""

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.issuer_realm import HOST, REALM, USER_SCOPES
from tests.processes import ManagedProcess, answers, free_port

BUYER = ("orders:write", "orders:read", "stock:read", "payments:read")
STAFF = tuple(sorted(USER_SCOPES))


class IssuerProcess(ManagedProcess):
    """An issuer on ports of its own; ``url`` is what a service needs as ``AUTH_ISSUER``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "issuer.log")
        self._control_port = free_port()
        self.url = f"http://{HOST}:{self.port}{REALM}"
        self.token_url = f"{self.url}/protocol/openid-connect/token"

    def start(self) -> Self:
        """Start it, and wait until it answers. Its keys are new each time."""
        return self._run("tests.issuer", "--port", str(self.port), "--control-port", str(self._control_port))

    def is_ready(self) -> bool:
        return answers(self._control_url("/livez"))

    def behave(self, **behaviour: float | str | list[str]) -> None:
        """Have it behave otherwise, at once: see ``Behaviour``."""
        self._control("PUT", "/behaviour", behaviour)

    def rotate(self, algorithm: str = "RS256", *, keep: bool = True) -> str:
        """Sign with a new key from now on, and give its ``kid``; unless they are kept the old ones are gone."""
        kid: str = self._control("POST", "/rotate", {"algorithm": algorithm, "keep": keep})["kid"]
        return kid

    def private_keys(self) -> list[dict[str, Any]]:
        """Its keys, with their private halves: ``kid``, ``alg``, ``use``, ``pem``, ``signs``."""
        keys: list[dict[str, Any]] = self._control("GET", "/keys")
        return keys

    def asked(self, what: str) -> int:
        """How often it was asked for its ``discovery`` document, ``jwks`` or a ``token``, answered or not."""
        return int(self._control("GET", "/asked").get(what, 0))

    def set_client(self, client_id: str, secret: str | None, *scopes: str) -> None:
        """Make a client, or change it. Without a secret it is a public one."""
        self._control("PUT", f"/clients/{client_id}", {"secret": secret, "scopes": scopes})

    def set_user(self, name: str, *scopes: str, sub: str | None = None) -> None:
        """Make a user, who may have these scopes, or change him. His ``sub`` is his name if none is given."""
        user = {"password": _password(name), "scopes": scopes, "sub": name if sub is None else sub}
        self._control("PUT", f"/users/{urllib.parse.quote(name, safe='')}", user)

    def token(self, user: str, *scopes: str, sub: str | None = None) -> str:
        """An access token of a user with these scopes, of a buyer if none are given."""
        token: str = self.user_tokens(user, *(scopes or BUYER), sub=sub)["access_token"]
        return token

    def user_tokens(self, user: str, *scopes: str, sub: str | None = None) -> dict[str, Any]:
        """What the token endpoint answers; with the scope ``openid`` there is an ``id_token``, too."""
        self.set_user(user, *scopes, sub=sub)
        return self.ask(
            grant_type="password",
            client_id="shop-web",
            username=user,
            password=_password(user),
            scope=" ".join(scopes),
        )

    def service_token(self, client_id: str = "order-service", secret: str = "order-secret") -> str:
        """An access token of a service, by client credentials."""
        token: str = self.ask(grant_type="client_credentials", client_id=client_id, client_secret=secret)[
            "access_token"
        ]
        return token

    def ask(self, **form: str) -> dict[str, Any]:
        """Send a form to the token endpoint; a refusal is raised as ``HTTPError``."""
        wanted = urllib.request.Request(self.token_url, urllib.parse.urlencode(form).encode())
        with urllib.request.urlopen(wanted, timeout=5) as reply:
            answer: dict[str, Any] = json.load(reply)
        return answer

    def _control(self, method: str, path: str, body: object = None) -> Any:
        raw = None if body is None else json.dumps(body).encode()
        wanted = urllib.request.Request(self._control_url(path), raw, method=method)
        with urllib.request.urlopen(wanted, timeout=5) as reply:
            return json.load(reply)

    def _control_url(self, path: str) -> str:
        return f"http://{HOST}:{self._control_port}{path}"


def _password(user: str) -> str:
    return f"password of {user}"
