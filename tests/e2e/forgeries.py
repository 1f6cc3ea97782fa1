"""THE TABLE of forged tokens. None of them may open anything; each row says what is wrong with one."""

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt

from tests.forged_tokens import DROP, TokenForger, encode, join
from tests.issuer_keys import new_private_key
from tests.issuer_process import STAFF, IssuerProcess
from tests.issuer_realm import AUDIENCE, SERVICE_SCOPE

ALL_SCOPES = " ".join([*STAFF, SERVICE_SCOPE])


@dataclass(frozen=True)
class Forge:
    """What an attacker may have. ``own`` is with the issuer's own key, so that one thing alone is wrong with a token:
    what the row says. ``foreign`` is a key of the attacker's that calls itself as the issuer's does."""

    issuer: IssuerProcess
    own: TokenForger
    ec: TokenForger
    encryption: TokenForger
    foreign: TokenForger
    foreign_ec: TokenForger
    attacker_url: str

    @classmethod
    def of(cls, issuer: IssuerProcess, attacker_url: str) -> "Forge":
        usual = {"scope": ALL_SCOPES, "sub": "mallory"}
        own, ec = TokenForger.of(issuer, **usual), TokenForger.of(issuer, "ES256", **usual)
        encryption = TokenForger.of(issuer, "RSA-OAEP", "enc", **usual)
        foreign = own.with_key(new_private_key("RS256"))
        return cls(issuer, own, ec, encryption, foreign, ec.with_key(new_private_key("ES256")), attacker_url)

    @property
    def foreign_jwk(self) -> dict[str, Any]:
        public: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.foreign.private.public_key()))  # type: ignore[arg-type]
        return {**public, "kid": self.foreign.kid, "alg": "RS256", "use": "sig"}


Make = Callable[[Forge], str]


def _header(**changes: Any) -> Make:
    return lambda forge: forge.own.with_header(**changes)


def _claims(**changes: Any) -> Make:
    return lambda forge: forge.own.with_claims(**changes)


def _from_now(claim: str, seconds: float) -> Make:
    return lambda forge: forge.own.with_claims(**{claim: int(time.time() + seconds)})


def _raw_claim(name: str, text: str) -> Make:
    """A claim whose value is not what ``json.dumps`` would write."""

    def make(forge: Forge) -> str:
        claims = json.dumps(forge.own.claims(**{name: "RAW"}))
        return forge.own.token(claims=claims.replace('"RAW"', text))

    return make


def _hmac(secret: Callable[[Forge], bytes], **changes: Any) -> Make:
    return lambda forge: forge.own.hs256(secret(forge), **changes)


def _signed(header: Any, claims: Any = None) -> Make:
    """Whatever it is, with the issuer's signature over it."""
    return lambda forge: forge.own.token(header, claims)


def _cut(parts: slice) -> Make:
    return lambda forge: ".".join(forge.own.token().split(".")[parts])


def _swap_claims(forge: Forge) -> str:
    """The signature of one token under the claims of another one."""
    header, _, signature = forge.own.token().split(".")
    return f"{header}.{encode(forge.own.claims(sub='somebody-else'))}.{signature}"


def _jwe(forge: Forge) -> str:
    header = {"alg": "RSA-OAEP", "enc": "A256GCM", "typ": "JWT", "kid": forge.encryption.kid}
    return ".".join([encode(header), *(encode(b"x" * n) for n in (256, 12, 64, 16))])


def _nested(forge: Forge) -> str:
    return forge.own.token(forge.own.header(cty="JWT"), forge.own.token())


def _other_alphabet(forge: Forge) -> str:
    """Base64 with padding: another spelling of the same bytes, which RFC 7515 does not know."""
    return ".".join(
        base64.b64encode(base64.urlsafe_b64decode(part + "==")).decode() for part in forge.own.token().split(".")
    )


SIGNATURES: dict[str, Make] = {
    "alg none": lambda forge: forge.own.unsigned("none"),
    "alg None": lambda forge: forge.own.unsigned("None"),
    "alg nOnE": lambda forge: forge.own.unsigned("nOnE"),
    "alg none with a signature": lambda forge: forge.own.unsigned("none", b"signature"),
    "alg RS256 without a signature": lambda forge: forge.own.unsigned("RS256"),
    "alg is empty": _header(alg=""),
    "alg is missing": _header(alg=DROP),
    "alg is null": _header(alg=None),
    "alg is a number": _header(alg=256),
    "alg is a list": _header(alg=["RS256", "none"]),
    "alg in lower case": _header(alg="rs256"),
    "HS256 with the public key as PEM": _hmac(lambda forge: forge.own.public_pem),
    "HS256 with the public key as PEM, stripped": _hmac(lambda forge: forge.own.public_pem.strip()),
    "HS256 with the public EC key": _hmac(lambda forge: forge.ec.public_pem),
    "HS256 with the JWK": _hmac(lambda forge: json.dumps(forge.foreign_jwk).encode()),
    "HS256 with an empty secret": _hmac(lambda _: b""),
    "HS256 with the order service's secret": _hmac(lambda _: b"order-secret"),
    "HS256 without a kid": _hmac(lambda forge: forge.own.public_pem, kid=DROP),
    "RS256 by a foreign key with our kid": lambda forge: forge.foreign.token(),
    "ES256 by a foreign key with our kid": lambda forge: forge.foreign_ec.token(),
    "ES256 by a foreign key with the kid of the RSA key": lambda forge: forge.foreign_ec.with_header(kid=forge.own.kid),
    "RS256 with the kid of the EC key": lambda forge: forge.own.with_header(kid=forge.ec.kid),
    "RS256 that calls itself PS256": _header(alg="PS256"),
    "RS256 that calls itself ES256": _header(alg="ES256"),
    "RS512 over an RS256 signature": _header(alg="RS512"),
    "ES256 with a signature of zeros": lambda forge: join(forge.ec.header(), forge.ec.claims(), bytes(64)),
    "the key for encryption": lambda forge: forge.encryption.with_header(alg="RS256"),
    "the signature of another token": _swap_claims,
    "truncated signature": lambda forge: forge.own.token()[:-8],
    "one bit of the signature": lambda forge: forge.own.token()[:-9] + "AAAAAAAAA",
}
KEYS: dict[str, Make] = {
    "jwk of the attacker": lambda forge: forge.foreign.with_header(jwk=forge.foreign_jwk),
    "jwk of the attacker, without a kid": lambda forge: forge.foreign.with_header(jwk=forge.foreign_jwk, kid=DROP),
    "jku of the attacker": lambda forge: forge.foreign.with_header(jku=forge.attacker_url),
    "jku of the attacker and a kid of his": lambda forge: forge.foreign.with_header(jku=forge.attacker_url, kid="evil"),
    "x5u of the attacker": lambda forge: forge.foreign.with_header(x5u=forge.attacker_url),
    "x5c of the attacker": lambda forge: forge.foreign.with_header(x5c=["MIIB"]),
    "kid is the attacker's URL": lambda forge: forge.foreign.with_header(kid=forge.attacker_url),
    "iss is the attacker's": lambda forge: forge.foreign.token(
        forge.foreign.header(kid="evil"), forge.foreign.claims(iss=forge.attacker_url)
    ),
    "kid is missing": _header(kid=DROP),
    "kid is null": _header(kid=None),
    "kid is empty": _header(kid=""),
    "kid is a number": _header(kid=7),
    "kid is a list": _header(kid=["a"]),
    "kid is an object": _header(kid={"$ne": None}),
    "kid is a path": _header(kid="../../../../../../dev/null"),
    "kid is SQL": _header(kid="x' UNION SELECT 'secret' -- "),
    "kid is a command": _header(kid="key|/bin/true; $(id)"),
    "kid has NUL": _header(kid="\0"),
    "kid has line breaks": _header(kid='a\r\nX-Evil: 1\r\n\r\n{"event": "forged"}\n'),
    "kid is not ASCII": _header(kid="ключ\u202e\U0001f511"),
    "kid has half a surrogate pair": _header(kid="\ud800"),
    "kid of 4 KB": _header(kid="k" * 4096),
}
CLAIMS: dict[str, Make] = {
    "iss of somebody else": _claims(iss="https://other.example.com/realms/shop"),
    "iss with a slash at the end": lambda forge: forge.own.with_claims(iss=forge.own.issuer + "/"),
    "iss in capitals": lambda forge: forge.own.with_claims(iss=forge.own.issuer.upper()),
    "iss as a list": lambda forge: forge.own.with_claims(iss=[forge.own.issuer]),
    "iss is null": _claims(iss=None),
    "iss is missing": _claims(iss=DROP),
    "aud of somebody else": _claims(aud="other-api"),
    "aud of others": _claims(aud=["other-api", "account"]),
    "aud begins as ours": _claims(aud=f"{AUDIENCE}-staging"),
    "aud in capitals": _claims(aud=AUDIENCE.upper()),
    "aud is the client": _claims(aud="shop-web"),
    "aud is empty": _claims(aud=""),
    "aud is an empty list": _claims(aud=[]),
    "aud is a number": _claims(aud=1),
    "aud has a number": _claims(aud=[1, AUDIENCE]),
    "aud is an object": _claims(aud={AUDIENCE: True}),
    "aud is missing": _claims(aud=DROP),
    "sub is missing": _claims(sub=DROP),
    "sub is empty": _claims(sub=""),
    "sub is null": _claims(sub=None),
    "sub is a number": _claims(sub=7),
    "sub is a list": _claims(sub=["ann"]),
    "sub is an object": _claims(sub={"$gt": ""}),
    "sub of 65 characters": _claims(sub="a" * 65),
    "sub with a blank at the end": _claims(sub="ann "),
    "sub with a line break": _claims(sub='ann\n{"event": "forged"}'),
    "sub with NUL": _claims(sub="ann\0"),
    "sub that looks like ann": _claims(sub="\u0430nn"),
    "scope is a list of lists": _claims(scope=[STAFF]),
    "scope is a number": _claims(scope=1),
    "scope is an object": _claims(scope={"orders:write": True}),
    "scp is a number": _claims(scp=1),
    "expired, beyond the skew": _from_now("exp", -35),
    "expired long ago": _claims(exp=1),
    "exp is missing": _claims(exp=DROP),
    "exp is null": _claims(exp=None),
    "exp is a string": lambda forge: forge.own.with_claims(exp=str(int(time.time()) + 300)),
    "exp is a word": _claims(exp="never"),
    "exp is negative": _claims(exp=-1),
    "exp is true": _claims(exp=True),
    "exp is a list": _claims(exp=[9_999_999_999]),
    "exp is NaN": _raw_claim("exp", "NaN"),
    "exp is Infinity": _raw_claim("exp", "Infinity"),
    "exp is 1e999": _raw_claim("exp", "1e999"),
    "exp of 5,000 digits": _raw_claim("exp", "9" * 5000),
    "nbf in the future": _from_now("nbf", 35),
    "nbf is a word": _claims(nbf="now"),
    "nbf is NaN": _raw_claim("nbf", "NaN"),
    "nbf is Infinity": _raw_claim("nbf", "Infinity"),
    "iat in the future": _from_now("iat", 35),
    "iat is a word": _claims(iat="now"),
}
TYPES: dict[str, Make] = {
    "an ID token": lambda forge: str(forge.issuer.user_tokens("ann", "openid", *STAFF)["id_token"]),
    "an ID token for the API": _claims(typ="ID"),
    "a nonce": _claims(nonce="n-0S6_WzA2Mj"),
    "an at_hash": _claims(at_hash="MTIzNDU2Nzg5MDEyMzQ1Ng"),
    "a refresh token": _claims(typ="Refresh"),
    "an offline token": _claims(typ="Offline"),
    "a logout token": _claims(typ="Logout"),
    "typ is a number": _claims(typ=1),
    "typ is a list": _claims(typ=["Bearer"]),
    "header typ of a logout token": _header(typ="logout+jwt"),
    "header typ of an event": _header(typ="secevent+jwt"),
    "header typ of a DPoP proof": _header(typ="dpop+jwt"),
    "header typ of a JWE": _header(typ="JWE"),
    "header typ is a number": _header(typ=7),
    "header typ is a list": _header(typ=["JWT"]),
}
EXTENSIONS: dict[str, Make] = {
    "unknown crit": _header(crit=["urn:example:must"], **{"urn:example:must": True}),
    "crit of what is known": _header(crit=["exp"], exp=1),
    "crit is empty": _header(crit=[]),
    "crit is a word": _header(crit="b64"),
    "crit is null": _header(crit=None),
    "b64 is false": _header(b64=False, crit=["b64"]),
    "b64 is false, without crit": _header(b64=False),
}
SHAPES: dict[str, Make] = {
    "JWE": _jwe,
    "a token within a token": _nested,
    "four parts": lambda forge: forge.own.token() + ".AAAA",
    "two parts": _cut(slice(2)),
    "one part": _cut(slice(1)),
    "only a signature": lambda forge: ".." + forge.own.token().split(".")[2],
    "dots": lambda _: "..",
    "a dot": lambda _: ".",
    "a word": lambda _: "token",
    "an opaque token": lambda _: "mF_9.B5f-4.1JqM",
    "without its first letter": lambda forge: forge.own.token()[1:],
    "without its last part of claims": lambda forge: forge.own.token().replace(
        forge.own.token().split(".")[1][-9:], ""
    ),
    "header is not JSON": _signed("{alg: RS256}"),
    "header is a list": _signed("[]"),
    "header is a number": _signed("1"),
    "header is null": _signed("null"),
    "header is not UTF-8": _signed(b'{"alg": "RS256", "kid": "\xff"}'),
    "claims are no JSON": _signed(None, "sub=ann"),
    "claims are a list": _signed(None, "[]"),
    "claims are a string": _signed(None, '"ann"'),
    "claims are null": _signed(None, "null"),
    "claims are empty": _signed(None, ""),
    "claims are not UTF-8": _signed(None, b'{"sub": "\xff"}'),
    "claims are deeply nested": _signed(None, "[" * 3000),
    "header is deeply nested": _signed('{"alg":' + "[" * 3000),
    "base64 as of RFC 4648, section 4": _other_alphabet,
}
FORGERIES: dict[str, Make] = {**SIGNATURES, **KEYS, **CLAIMS, **TYPES, **EXTENSIONS, **SHAPES}

# What is unusual about a token, and must not be held against it.
GOOD: dict[str, Make] = {
    "RS256": lambda forge: forge.own.token(),
    "ES256": lambda forge: forge.ec.token(),
    "at+jwt": _header(typ="at+jwt"),
    "application/at+jwt": _header(typ="application/at+JWT"),
    "no typ": _header(typ=DROP),
    "no typ claim": _claims(typ=DROP),
    "aud is a list": _claims(aud=["account", AUDIENCE]),
    "expired, within the skew": _from_now("exp", -15),
    "nbf within the skew": _from_now("nbf", 15),
    "iat within the skew": _from_now("iat", 15),
    "no iat": _claims(iat=DROP),
    "exp has a fraction": _raw_claim("exp", f"{time.time() + 3_000:.3f}"),
    "scp is a list": lambda forge: forge.own.with_claims(scope=DROP, scp=ALL_SCOPES.split()),
    "scp is a string": lambda forge: forge.own.with_claims(scope=DROP, scp=ALL_SCOPES),
    "unknown header": _header(note="hello"),
    "jku of the attacker, and our signature": lambda forge: forge.own.with_header(jku=forge.attacker_url),
    "x5u of the attacker, and our signature": lambda forge: forge.own.with_header(x5u=forge.attacker_url),
    "jwk of the attacker, and our signature": lambda forge: forge.own.with_header(jwk=forge.foreign_jwk),
}
# The one that is too long for a header line; see attacks/test_tokens.py.
LONG: dict[str, Make] = {"kid of 10 KB": _header(kid="k" * 10_240), "1 MB": lambda _: "A" * 2**20}
