"""What is asked of an OpenID Connect issuer, and how: its configuration, its keys, a token."""

import ipaddress
from collections.abc import Mapping
from typing import TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError
from yarl import URL

from common.errors import ServiceUnavailable

M = TypeVar("M", bound=BaseModel)

_TIMEOUT_S = 3.0
# Fifty keys with their certificates are a tenth of it.
_REPLY_BYTES_MAX = 256 * 1024
_MUST_LOOK = "must look like https://id.example.com/realms/shop"


class Configuration(BaseModel):
    """OpenID Connect Discovery 1.0, section 3; what we need of it."""

    issuer: str
    jwks_uri: str
    token_endpoint: str | None = None


def is_loopback(host: str) -> bool:
    """Whether an address to listen on, or the host of a URL, is this machine's alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_url(text: str) -> str:
    """An issuer's URL as it is. Raises ValueError for one on which somebody on the way could forge its answers."""
    try:
        url = URL(text)
    except ValueError:
        raise ValueError(_MUST_LOOK) from None
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment or url.user:
        raise ValueError(_MUST_LOOK)
    if url.scheme != "https" and not is_loopback(url.host):
        raise ValueError("must begin with https://, or anybody on the way could forge the issuer's keys")
    return text


async def discover(session: aiohttp.ClientSession, issuer: str) -> Configuration:
    """The configuration of an issuer. Raises ServiceUnavailable."""
    found = await fetch(session, "GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration", Configuration)
    if found.issuer != issuer:
        raise ServiceUnavailable(f"The issuer calls itself {found.issuer!r:.200} and not {issuer!r}.")
    return found


async def fetch(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    contract: type[M],
    *,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> M:
    """What the issuer answers with, as ``contract``. Raises ServiceUnavailable, without anything of the answer in it:
    it may hold a token."""
    try:
        check_url(url)
        async with session.request(
            method,
            url,
            data=form,
            headers={"Accept": "application/json", **(headers or {})},
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            allow_redirects=False,
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _REPLY_BYTES_MAX:
                    raise ServiceUnavailable(f"{method} {url} answers with more than {_REPLY_BYTES_MAX} bytes.")
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        raise ServiceUnavailable(f"{method} {url} failed: {type(error).__name__}.", retry_after_s=1) from error
    if response.status != 200:
        raise ServiceUnavailable(f"{method} {url} answers {response.status}.", retry_after_s=1)
    try:
        return contract.model_validate_json(bytes(body))
    except ValidationError:
        raise ServiceUnavailable(f"{method} {url} does not answer with a {contract.__name__}.") from None
