"""How a client proves who it is: with a token that it was given, or that it fetches for itself."""

import asyncio
import time
from typing import Protocol

import aiohttp
from pydantic import BaseModel

from common import oidc
from common.errors import ServiceError

# A token is fetched anew so long before it expires: clocks differ, and a call takes its time.
_EARLY_S = 30.0


class Credentials(Protocol):
    """Something that has a valid access token whenever it is asked for one."""

    async def token(self) -> str:
        """Raises ServiceUnavailable."""
        ...


class _Fixed:
    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token


def fixed(token: str) -> Credentials:
    """The credentials of who has a token already."""
    return _Fixed(token)


class _TokenReply(BaseModel):
    """RFC 6749, section 5.1."""

    access_token: str
    expires_in: float = 60.0


class ClientCredentials:
    """A program's own tokens, from an OpenID Connect issuer: OAuth 2.0 client credentials (RFC 6749, section 4.4).

    A token is fetched when it is needed first, and again shortly before it expires; while the issuer cannot be
    reached, it is used to its end. It belongs to the event loop of its first call; close it as the client.
    """

    def __init__(self, issuer: str, client_id: str, client_secret: str, *, scope: str | None = None) -> None:
        self._issuer = oidc.check_url(issuer)
        self._auth = aiohttp.BasicAuth(client_id, client_secret)
        self._form = {"grant_type": "client_credentials"} | ({} if scope is None else {"scope": scope})
        self._fetching = asyncio.Lock()
        self._token = ""
        self._renew_at = self._expires_at = 0.0

    async def token(self) -> str:
        """Raises ServiceUnavailable when there is no token and none can be had."""
        if time.monotonic() >= self._renew_at:
            async with self._fetching:
                if time.monotonic() >= self._renew_at:
                    await self._renew()
        return self._token

    async def _renew(self) -> None:
        asked_at = time.monotonic()
        try:
            found = await self._fetch()
        except ServiceError:
            if asked_at >= self._expires_at:
                raise
            # Good for a while yet; nobody else is to wait for an issuer that does not answer.
            self._renew_at = asked_at + 1
            return
        self._token = found.access_token
        self._expires_at = asked_at + found.expires_in
        self._renew_at = asked_at + max(found.expires_in - _EARLY_S, found.expires_in / 2)

    async def _fetch(self) -> _TokenReply:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            configuration = await oidc.discover(session, self._issuer)
            endpoint = configuration.token_endpoint or ""
            return await oidc.fetch(session, "POST", endpoint, _TokenReply, form=self._form, auth=self._auth)
