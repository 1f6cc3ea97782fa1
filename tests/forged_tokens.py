"""Forged tokens, put together by hand: no library keeps them from being wrong in whatever way a test likes."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from jwt.algorithms import AllowedPrivateKeys

from tests.issuer_process import BUYER, IssuerProcess
from tests.issuer_realm import AUDIENCE

DROP = object()
"""As the value of a header or claim: leave it out."""


def encode(part: bytes | str | Mapping[str, Any]) -> str:
    """A part of a token: bytes and text as they are, anything else as JSON."""
    raw = part if isinstance(part, bytes) else part.encode() if isinstance(part, str) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def join(header: bytes | str | Mapping[str, Any], claims: bytes | str | Mapping[str, Any], signature: bytes) -> str:
    return f"{encode(header)}.{encode(claims)}.{encode(signature)}"


def decode(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token, unverified."""
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return header, claims


def sign(private: AllowedPrivateKeys, algorithm: str, signed: bytes) -> bytes:
    """The signature of some bytes, as RFC 7518 has it."""
    if isinstance(private, rsa.RSAPrivateKey):
        pss = padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size)
        return private.sign(signed, pss if algorithm == "PS256" else padding.PKCS1v15(), SHA256())
    if isinstance(private, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(private.sign(signed, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    return private.sign(signed)


def sign_hs256(secret: bytes, signed: bytes) -> bytes:
    return hmac.digest(secret, signed, hashlib.sha256)


@dataclass(frozen=True)
class TokenForger:
    """Makes tokens of a key. They are a buyer's, and good, but for what the test says.

    With a key of the issuer it makes what a broken or seduced issuer would; with another one, what an attacker can.
    """

    issuer: str
    kid: str
    algorithm: str
    private: AllowedPrivateKeys
    usual: Mapping[str, Any]

    @classmethod
    def of(cls, issuer: IssuerProcess, algorithm: str = "RS256", use: str = "sig", **usual: Any) -> Self:
        """With the issuer's own key; ``usual`` are claims that each token has unless it says otherwise."""
        key = next(key for key in issuer.private_keys() if (key["alg"], key["use"]) == (algorithm, use))
        private: Any = load_pem_private_key(key["pem"].encode(), None)
        return cls(issuer.url, key["kid"], algorithm, private, usual)

    def with_key(self, private: AllowedPrivateKeys) -> Self:
        """The same forger, with another key that calls itself as the first does."""
        return replace(self, private=private)

    @property
    def public_pem(self) -> bytes:
        """What an attacker gets from the JWKS, and may use as the secret of an HMAC."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def header(self, **changes: Any) -> dict[str, Any]:
        return _changed({"alg": self.algorithm, "typ": "JWT", "kid": self.kid}, changes)

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        usual = {
            "exp": now + 300,
            "iat": now,
            "jti": str(uuid4()),
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "mallory",
            "typ": "Bearer",
            "azp": "shop-web",
            "scope": " ".join(BUYER),
            **self.usual,
        }
        return _changed(usual, changes)

    def token(
        self,
        header: bytes | str | Mapping[str, Any] | None = None,
        claims: bytes | str | Mapping[str, Any] | None = None,
    ) -> str:
        """A token of these parts, properly signed whatever they say."""
        head = encode(self.header() if header is None else header)
        parts = f"{head}.{encode(self.claims() if claims is None else claims)}"
        return f"{parts}.{encode(sign(self.private, self.algorithm, parts.encode()))}"

    def with_header(self, **changes: Any) -> str:
        return self.token(self.header(**changes))

    def with_claims(self, **changes: Any) -> str:
        return self.token(claims=self.claims(**changes))

    def hs256(self, secret: bytes, **changes: Any) -> str:
        """The confusion of HS and RS: an HMAC with what everybody knows."""
        parts = f"{encode(self.header(alg='HS256', **changes))}.{encode(self.claims())}"
        return f"{parts}.{encode(sign_hs256(secret, parts.encode()))}"

    def unsigned(self, algorithm: str, signature: bytes = b"") -> str:
        return join(self.header(alg=algorithm), self.claims(), signature)


def _changed(usual: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**usual, **changes}.items() if value is not DROP}
