"""A gateway that is reached over HTTP, such as ``vv gateway``.

Only what the gateway itself says about the charge decides anything. Whatever else comes back (a timeout, a reset, a
5xx, a page of a proxy, and also a 4xx, which says that the request was wrong and not that the card was) is unknown.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import quote

from aiohttp import hdrs
from pydantic import BaseModel, SecretStr
from yarl import URL

from common import context, tracing
from common.clients.discovered import open_transport
from common.clients.replies import read_reply
from common.clients.transport import Request
from common.errors import ServiceError
from common.telemetry import log
from payment_service.domain import REASON_CHARACTERS_MAX
from payment_service.gateway import ChargeResult, GatewayUnavailable
from payment_service.gateway_wire import Charge, ChargeNotFound, ChargeStatus, CreateCharge, CreateRefund, Refund

M = TypeVar("M", bound=BaseModel)


class HttpGateway:
    """``timeout_s`` is that of one call; ``connections_max`` calls go on at once, the others wait their turn. ``token``
    and ``tls`` prove who we are."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float,
        connections_max: int,
        token: SecretStr | None = None,
        tls: ssl.SSLContext | None = None,
        nameserver: str | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._token = token
        self._transport = open_transport(base_url, None, connections_max, tls, nameserver)

    async def charge(
        self, key: str, *, amount: int, currency: str, payment_method: str, reference: str
    ) -> ChargeResult:
        wanted = CreateCharge(amount=amount, currency=currency, payment_method=payment_method, reference=reference)
        with _undecided():
            return _result(await self._call("POST", "/charges", Charge, key=key, body=wanted))

    async def find(self, key: str) -> ChargeResult | None:
        with _undecided():
            try:
                return _result(await self._call("GET", _path(key), Charge))
            except ChargeNotFound:
                return None

    async def cancel(self, key: str) -> ChargeResult:
        with _undecided():
            return _result(await self._call("POST", f"{_path(key)}/cancel", Charge))

    async def refund(self, key: str, *, charge_key: str, amount: int, currency: str) -> None:
        wanted = CreateRefund(charge_key=charge_key, amount=amount, currency=currency)
        with _undecided():
            refund = await self._call("POST", "/refunds", Refund, key=key, body=wanted)
        if refund.status is not ChargeStatus.APPROVED:
            log.error("gateway_refused_the_refund", key=key, status=refund.status)
            raise GatewayUnavailable(f"The gateway has {refund.status} the refund.")

    async def aclose(self) -> None:
        await self._transport.close()

    async def _call(
        self, method: str, path: str, contract: type[M], *, key: str | None = None, body: BaseModel | None = None
    ) -> M:
        headers = {} if key is None else {"Idempotency-Key": key, hdrs.CONTENT_TYPE: "application/json"}
        if self._token is not None:
            headers[hdrs.AUTHORIZATION] = f"Bearer {self._token.get_secret_value()}"
        data = None if body is None else body.model_dump_json().encode()
        if (trace := tracing.outgoing()) is not None:
            headers[context.TRACE_HEADER] = trace
        request = Request(method, URL(self._base_url + path, encoded=True), headers, data)
        return read_reply(request, await self._transport.request(request, self._timeout_s), contract)


@contextmanager
def _undecided() -> Iterator[None]:
    """No error decides anything; one that repeating will not mend is for people to look at."""
    try:
        yield
    except ServiceError as error:
        if error.is_refusal:
            log.error("gateway_refused_the_request", code=error.code, detail=error.detail)
        raise GatewayUnavailable(error.detail) from error


def _result(charge: Charge) -> ChargeResult:
    return ChargeResult(charge.status, None if charge.reason is None else _fitting(charge.reason))


def _fitting(reason: str) -> str:
    """What a gateway says in its own words, as far as the column takes it: nothing that is written may fail for it."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in reason)[:REASON_CHARACTERS_MAX]


def _path(key: str) -> str:
    return f"/charges/{quote(key, safe='')}"
