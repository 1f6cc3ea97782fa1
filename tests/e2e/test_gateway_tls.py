"""``vv gateway --certificates``: a payment gateway that lets in the payment service and the operator only."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from payment_service.gateway_http import HttpGateway
from tests.gateway_process import GatewayProcess
from tests.processes import certificate_of

CHARGE = {"amount": 700, "currency": "USD", "payment_method": "tok_ok", "reference": "order"}


@pytest.fixture(scope="module")
def gateway(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), tls=certificates).start()
    yield process
    assert process.stop() == 0


async def call(url: str, method: str, tls: ssl.SSLContext, body: Any = None) -> int:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
        session.request(method, url, json=body, headers={"Idempotency-Key": "key:charge"}) as reply,
    ):
        return reply.status


@pytest.mark.parametrize(
    ("name", "charged", "ledger"),
    [
        ("payment", 201, 403),
        ("operator", 201, 200),
        ("order", 403, 403),
        ("inventory", 403, 403),
        ("gateway", 401, 401),
    ],
)
async def test_who_may_do_what(
    name: str, charged: int, ledger: int, certificates: Path, gateway: GatewayProcess
) -> None:
    """The payment service charges; a person may also look into the ledger; everybody else may do nothing."""
    tls = certificate_of(name, certificates).client
    status = await call(f"{gateway.url}/charges", "POST", tls, CHARGE)
    assert status == charged or (charged, status) == (201, 200)
    assert await call(f"{gateway.url}/ledger", "GET", tls) == ledger


async def test_without_a_certificate_there_is_no_connection(certificates: Path, gateway: GatewayProcess) -> None:
    """Not even one for a health check."""
    tls = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    with pytest.raises(aiohttp.ClientError):
        await call(f"{gateway.url}/livez", "GET", tls)


async def test_the_payment_services_client_charges_there(certificates: Path, gateway: GatewayProcess) -> None:
    """With the certificate of the payment service."""
    tls = certificate_of("payment", certificates).client
    client = HttpGateway(gateway.url, timeout_s=5, connections_max=4, tls=tls)
    try:
        await client.charge("o:charge", amount=700, currency="USD", payment_method="tok_ok", reference="o")
    finally:
        await client.aclose()
    assert gateway.approved("o")[("charge", 700)] == 1
