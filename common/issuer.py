"""The keys of the OpenID Connect issuer whose tokens are believed."""

import asyncio
import contextlib
import time
from contextlib import AsyncExitStack
from typing import Any, NoReturn, Self

import aiohttp
import jwt
from pydantic import BaseModel

from common import context, oidc
from common.background import running
from common.errors import ServiceUnavailable
from common.telemetry import log

# After so long a key that the issuer has withdrawn does not count any more.
_REFRESH_S = 300.0
_RETRY_S = 1.0
# Between two looks for a key that nobody knows, which anybody can ask us for.
_COOLDOWN_S = 10.0
# How long, and how many, callers wait for such a look.
_WAIT_S = 4.0
_WAITING_MAX = 512
# Public keys only: with a shared secret (HS256) whoever verifies could sign, too. RFC 8725, section 3.1.
ALGORITHMS = frozenset({"RS256", "PS256", "ES256", "EdDSA"})


class _KeySet(BaseModel):
    """RFC 7517, section 5."""

    keys: list[dict[str, Any]]


class Issuer:
    """The issuer at ``url``: its keys are fetched at once, then every five minutes, and when a token names one that is
    new. While it cannot be reached, what is known goes on to count.

    Use it with ``async with``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked_at = float("-inf")
        # The last look for keys, which may be over, and how many wait for it.
        self._look: asyncio.Task[bool] | None = None
        self._waiting = 0
        self._session: aiohttp.ClientSession | None = None
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._session = await self._running.enter_async_context(session)
        await self._running.enter_async_context(running(self._refresh_for_ever()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    def why_not_ready(self) -> str | None:
        """A sentence, until the issuer's keys are there."""
        return None if self._keys else f"The keys of the issuer {self.url} (AUTH_ISSUER) could not be fetched yet."

    async def key(self, kid: str) -> jwt.PyJWK | None:
        """The key called ``kid``, or None if there is none. Raises ServiceUnavailable when no key is known at all."""
        if kid not in self._keys:
            await self._look_again()
        if not self._keys:
            raise ServiceUnavailable(self.why_not_ready(), retry_after_s=1)
        return self._keys.get(kid)

    async def _look_again(self) -> None:
        """Wait for the look that is under way, or a new one unless the last was a moment ago: anybody can make us."""
        is_over = self._look is None or self._look.done()
        if is_over and time.monotonic() - self._asked_at <= _COOLDOWN_S:
            return
        if self._waiting >= _WAITING_MAX:
            raise ServiceUnavailable("Too many wait for the issuer's keys already.", retry_after_s=1)
        self._waiting += 1
        try:
            await asyncio.wait([self._looking()], timeout=context.seconds_left(_WAIT_S))
        finally:
            self._waiting -= 1

    def _looking(self) -> asyncio.Task[bool]:
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._refresh())
        return self._look

    async def _refresh_for_ever(self) -> NoReturn:
        try:
            while True:
                succeeded = await asyncio.shield(self._looking())
                await asyncio.sleep(_REFRESH_S if succeeded else _RETRY_S)
        finally:
            if self._look is not None:
                self._look.cancel()

    async def _refresh(self) -> bool:
        """Fetch the keys; whether that succeeded. The known ones stay if it did not."""
        assert self._session is not None
        self._asked_at = time.monotonic()
        try:
            configuration = await oidc.discover(self._session, self.url)
            found = _usable(await oidc.fetch(self._session, "GET", configuration.jwks_uri, _KeySet))
        except Exception as error:
            # Whatever it is: who stopped looking would believe withdrawn keys for ever.
            log.warning("issuer_unavailable", problem=str(error))
            return False
        if not found:
            log.warning("issuer_unavailable", problem=f"{self.url} has no key that tokens could be verified with.")
            return False
        self._keys = found
        return True


def _usable(keys: _KeySet) -> dict[str, jwt.PyJWK]:
    """The public keys for signatures, by their ``kid``; what we cannot use is left out."""
    found = {}
    for fields in keys.keys:
        kid = fields.get("kid")
        if not isinstance(kid, str) or fields.get("use", "sig") != "sig":
            continue
        # Whatever is odd about one key, the others count; PyJWT raises KeyError and more.
        with contextlib.suppress(Exception):
            key = jwt.PyJWK(fields)
            if key.algorithm_name in ALGORITHMS:
                found[kid] = key
    return found
