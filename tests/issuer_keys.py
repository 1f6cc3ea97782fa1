"""The keys of the tests' issuer: made, rotated, published as a JWKS, and handed to forgers."""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import AllowedPrivateKeys

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")


def new_private_key(algorithm: str) -> AllowedPrivateKeys:
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65_537, key_size=2048)


@dataclass(frozen=True)
class Key:
    """A key pair, for one algorithm only. ``use`` is ``sig``, or ``enc`` for one that must not sign tokens."""

    algorithm: str
    use: str = "sig"
    kid: str = field(default_factory=lambda: uuid4().hex)
    private: AllowedPrivateKeys = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "private", new_private_key(self.algorithm))

    @property
    def pem(self) -> str:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def jwk(self) -> dict[str, Any]:
        """The public half, as the JWKS has it."""
        algorithm: Any = jwt.get_algorithm_by_name("RS256" if self.use == "enc" else self.algorithm)
        public = json.loads(algorithm.to_jwk(self.private.public_key()))
        known = {name: value for name, value in public.items() if name != "key_ops"}
        # Nothing but its use keeps the one for encryption from being taken for the other kind.
        return {**known, "kid": self.kid, "use": self.use} | ({"alg": self.algorithm} if self.use == "sig" else {})

    def sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self.private, self.algorithm, {"kid": self.kid, "typ": "JWT"})


class Keys:
    """One key signs for each algorithm; older ones may still be published. Like Keycloak, it has one for encryption."""

    def __init__(self) -> None:
        self.published = [Key("RS256"), Key("ES256"), Key("RSA-OAEP", "enc")]
        self.signing = self.published[0]

    def rotate(self, algorithm: str, *, keep: bool) -> Key:
        """Sign with a new key. The others stay in the JWKS, or all are gone from it."""
        self.signing = Key(algorithm)
        self.published = [self.signing, *(self.published if keep else [])]
        return self.signing

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.jwk() for key in self.published]}

    def private(self) -> list[dict[str, Any]]:
        """Everything about them, for forgers."""
        return [
            {"kid": key.kid, "alg": key.algorithm, "use": key.use, "pem": key.pem, "signs": key is self.signing}
            for key in self.published
        ]
