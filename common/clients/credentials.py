"""How a client proves who it is: with a token that it was given, or that it fetches for itself."""

import asyncio
import base64
import time
from typing import Protocol
from urllib.parse import quote_plus

import aiohttp
from pydantic import BaseModel

from common import oidc
from common.errors import ServiceError, ServiceUnavailable

# A token is fetched anew so long before it expires: clocks differ, and a call takes its time.
_EARLY_S = 30.0
# Between two questions to an issuer that does not answer, or for another token in place of one that was refused.
_RETRY_S = 1.0


class Credentials(Protocol):
    """Something that has a valid access token whenever it is asked for one."""

    async def token(self) -> str:
        """Raises ServiceUnavailable."""
        ...

    async def has_other(self, refused: str) -> bool:
        """Whether there is another token than this one, which a service has refused."""
        ...


class _Fixed:
    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token

    async def has_other(self, refused: str) -> bool:
        return refused != self._token


def fixed(token: str) -> Credentials:
    """The credentials of who has a token already."""
    return _Fixed(token)


class _TokenReply(BaseModel):
    """RFC 6749, section 5.1."""

    access_token: str
    expires_in: float = 60.0


class ClientCredentials:
    """A program's own tokens, from an OpenID Connect issuer: OAuth 2.0 client credentials (RFC 6749, section 4.4).

    A token is fetched when it is needed first, and again shortly before it expires, while the old one is in use, to its
    end if the issuer cannot be reached. Who needs one at the same time shares the answer, and a failure is everybody's
    for a second. It belongs to the event loop of its first call.
    """

    def __init__(self, issuer: str, client_id: str, client_secret: str, *, scope: str | None = None) -> None:
        self._issuer = oidc.check_url(issuer)
        self._authorization = _basic(client_id, client_secret)
        self._form = {"grant_type": "client_credentials"} | ({} if scope is None else {"scope": scope})
        self._token = ""
        self._asked_at = self._renew_at = self._expires_at = float("-inf")
        # The last renewal, which may be over; it gives the problem, if there was one.
        self._renewal: asyncio.Task[str | None] | None = None

    async def token(self) -> str:
        """Raises ServiceUnavailable when there is no token and none can be had."""
        now = time.monotonic()
        if self._renewal is None or now >= self._renew_at:
            self._renewal = self._renewing()
        if now >= self._expires_at:
            # Who stops waiting must not take the answer away from the others.
            problem = await asyncio.shield(self._renewal)
            if problem is not None:
                raise ServiceUnavailable(problem, retry_after_s=_RETRY_S)
        return self._token

    async def has_other(self, refused: str) -> bool:
        """Whether there is another token than this one, which a service has refused: the issuer may have withdrawn the
        key that it was signed with. The old one stays in use until there is."""
        if refused == self._token and time.monotonic() >= self._asked_at + _RETRY_S:
            self._renewal = self._renewing()
            await asyncio.shield(self._renewal)
        return refused != self._token

    def _renewing(self) -> asyncio.Task[str | None]:
        """The renewal that is under way, or a new one."""
        if self._renewal is None or self._renewal.done():
            return asyncio.create_task(self._renew())
        return self._renewal

    async def _renew(self) -> str | None:
        started = time.monotonic()
        try:
            found = await self._fetch()
        except ServiceError as error:
            self._asked_at = time.monotonic()
            self._renew_at = self._asked_at + _RETRY_S
            return error.detail
        self._asked_at = time.monotonic()
        self._token = found.access_token
        self._expires_at = started + found.expires_in
        self._renew_at = started + max(found.expires_in - _EARLY_S, found.expires_in / 2)
        return None

    async def _fetch(self) -> _TokenReply:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            configuration = await oidc.discover(session, self._issuer)
            endpoint = configuration.token_endpoint or ""
            headers = {"Authorization": self._authorization}
            return await oidc.fetch(session, "POST", endpoint, _TokenReply, form=self._form, headers=headers)


def _basic(client_id: str, client_secret: str) -> str:
    """RFC 6749, section 2.3.1: both are encoded as in a form before they are joined."""
    joined = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return f"Basic {base64.b64encode(joined.encode()).decode()}"
