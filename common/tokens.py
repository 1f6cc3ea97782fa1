"""Tokens: what a JWT says, once it is certain that the issuer said it, to us, and lately (RFC 7519, 8725, 9068)."""

import math
from dataclasses import dataclass
from typing import Any

import jwt
from pydantic import BaseModel, ConfigDict, ValidationError

from common.contracts.base import UserId
from common.errors import Unauthenticated
from common.issuer import ALGORITHMS, Issuer

# A header line of HTTP is not longer.
_TOKEN_LENGTH_MAX = 8190
# Of a JWT without a word on what it is, and of an access token (RFC 9068, section 2.1).
_TYPES = {"jwt", "at+jwt", "application/at+jwt"}
_INVALID = 'Bearer error="invalid_token"'


@dataclass(frozen=True)
class Token:
    """What counts of a token: whose it is, and what it allows."""

    subject: str
    scopes: frozenset[str]


class _Claims(BaseModel):
    """PyJWT has verified what these say; here it is their types, and that the token is one for access."""

    model_config = ConfigDict(strict=True)

    sub: UserId
    exp: int | float
    scope: str = ""
    # Where Microsoft has the scopes.
    scp: list[str] | str = ""
    # Keycloak: Bearer, ID, Refresh, Logout …
    typ: str = "Bearer"

    @property
    def scopes(self) -> frozenset[str]:
        further = self.scp.split() if isinstance(self.scp, str) else self.scp
        return frozenset([*self.scope.split(), *further])


class Tokens:
    """Verifies tokens that ``issuer`` made for ``audience``; clocks may differ by ``skew_s`` seconds."""

    def __init__(self, issuer: Issuer, *, audience: str, skew_s: float) -> None:
        self._issuer = issuer
        self._audience = audience
        self._skew_s = skew_s

    async def verify(self, text: str) -> Token:
        """What the token says. Raises Unauthenticated, and ServiceUnavailable while the issuer's keys are not there."""
        try:
            key = await self._issuer.key(_kid(text))
            if key is None:
                raise refused("It names a key that the issuer does not have.", "unknown_key")
            return _token(self._claims(text, key))
        except jwt.PyJWTError as error:
            raise refused(*_why(error)) from None
        except (ValidationError, ValueError, TypeError, OverflowError, RecursionError):
            raise refused("It is malformed.") from None

    def _claims(self, text: str, key: jwt.PyJWK) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            text,
            key,
            algorithms=[key.algorithm_name],
            issuer=self._issuer.url,
            audience=self._audience,
            leeway=self._skew_s,
            options={"require": ["iss", "sub", "aud", "exp"], "enforce_minimum_key_length": True},
        )
        return claims


def refused(why: str, reason: str = "malformed") -> Unauthenticated:
    """The error that says why a token does not count; ``reason`` is that in one word, of which there are few."""
    error = Unauthenticated(f"The token is not valid. {why}")
    error.reason = reason
    error.challenge = _INVALID
    return error


def _kid(text: str) -> str:
    """The key that a token names; nothing else in its header has a say in which one is taken (``jku``, ``jwk`` …)."""
    if len(text) > _TOKEN_LENGTH_MAX:
        raise refused("It is too long.")
    header = jwt.get_unverified_header(text)
    if header.get("alg") not in ALGORITHMS:
        raise refused(f"It must be signed with one of {', '.join(sorted(ALGORITHMS))}.", "wrong_algorithm")
    if "crit" in header or "b64" in header:
        raise refused("It demands what we do not know (crit).")
    if str(header.get("typ", "JWT")).lower() not in _TYPES:
        raise refused("It is not an access token.", "wrong_kind")
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise refused("It does not name its key (kid).")
    return kid


def _token(claims: dict[str, Any]) -> Token:
    found = _Claims.model_validate(claims)
    # An ID token tells a client who somebody is, and allows nothing: OpenID Connect Core 1.0, section 2.
    if found.typ != "Bearer" or "nonce" in claims or "at_hash" in claims:
        raise refused("It is not an access token.", "wrong_kind")
    if not math.isfinite(found.exp):
        raise refused("It never expires.", "expired")
    return Token(found.sub, found.scopes)


def _why(error: jwt.PyJWTError) -> tuple[str, str]:
    """In our words, and in one: the library's may repeat what stands in the token."""
    return next((why for kind, why in _REASONS.items() if isinstance(error, kind)), ("It is malformed.", "malformed"))


_REASONS: dict[type[jwt.PyJWTError], tuple[str, str]] = {
    jwt.ExpiredSignatureError: ("It has expired.", "expired"),
    jwt.ImmatureSignatureError: ("It is not valid yet.", "not_yet_valid"),
    jwt.InvalidIssuerError: ("Another issuer made it.", "wrong_issuer"),
    jwt.InvalidAudienceError: ("It is meant for somebody else (aud).", "wrong_audience"),
    jwt.MissingRequiredClaimError: ("It lacks a claim: iss, sub, aud and exp must be there.", "malformed"),
    jwt.InvalidSignatureError: ("Its signature is wrong.", "wrong_signature"),
    jwt.InvalidAlgorithmError: ("It is signed with another algorithm than its key is for.", "wrong_algorithm"),
    jwt.InvalidKeyError: ("Its key is too short.", "weak_key"),
}
