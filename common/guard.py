"""The guard of a service: who a request comes from, and whether they may call that route."""

import re
import ssl
from typing import Any

from aiohttp import hdrs, web

from common.contracts.access import SERVICE_SCOPE, Access, Caller, Scope, Service
from common.errors import Forbidden, Unauthenticated
from common.tokens import Token, Tokens, refused

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/=-]+)", re.IGNORECASE)
_SERVICES = {service.value: service for service in Service}


class Guard:
    """Users prove who they are with a token. Services do so with the certificate of their connection, or, where there
    are no certificates, with a token of their own.

    :param tokens: None where no issuer is configured, so that there are no users
    :param by_certificate: whether every connection has a certificate
    """

    def __init__(self, tokens: Tokens | None, *, by_certificate: bool) -> None:
        self._tokens = tokens
        self._by_certificate = by_certificate

    async def admit(self, request: web.Request, access: Access) -> Caller:
        """The caller. Raises Unauthenticated, Forbidden, and ServiceUnavailable while nobody can say."""
        certified = _certified(request) if self._by_certificate else []
        known = [service for service in certified if service in access.services]
        if known:
            return Caller(f"service:{known[0]}", trusted=True)
        header = request.headers.getall(hdrs.AUTHORIZATION, [])
        if not header and certified:
            raise _forbidden(f"The service {certified[0]} may not call this.", "wrong_service")
        token = await self._verify(header)
        if not self._by_certificate:
            # The operator is a person, and no token makes anybody the operator.
            services = access.services - {Service.OPERATOR}
            named = [service for service in services if f"{SERVICE_SCOPE}{service}" in token.scopes]
            if named:
                return Caller(f"service:{named[0]}", trusted=True)
        return _user(token, access)

    async def _verify(self, header: list[str]) -> Token:
        if not header:
            raise Unauthenticated("A token is needed: Authorization: Bearer …")
        match = _BEARER.fullmatch(header[0])
        if match is None or len(header) > 1:
            raise refused("There must be one header, Authorization: Bearer …", "malformed")
        if self._tokens is None:
            raise refused("No issuer of tokens is configured here.", "no_issuer")
        return await self._tokens.verify(match[1])


def _certified(request: web.Request) -> list[Service]:
    """The services that the caller's certificate names. TLS has verified it before the first byte of the request."""
    connection = request.get_extra_info("ssl_object")
    assert isinstance(connection, ssl.SSLObject), "a connection without TLS, where every one has a certificate"
    certificate: dict[str, Any] = connection.getpeercert() or {}
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    return [_SERVICES[name] for name in names if name in _SERVICES]


def _forbidden(why: str, reason: str) -> Forbidden:
    error = Forbidden(why)
    error.reason = reason
    return error


def _user(token: Token, access: Access) -> Caller:
    if access.scope is None:
        raise _forbidden("Only services may call this.", "services_only")
    if access.scope not in token.scopes:
        error = Forbidden(f"The token lacks the scope {access.scope}.")
        error.challenge = f'Bearer error="insufficient_scope", scope="{access.scope}"'
        raise error
    return Caller(f"user:{token.subject}", token.subject, trusted=Scope.ORDERS_ADMIN in token.scopes)
