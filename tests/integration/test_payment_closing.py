"""The payment service ends while recovery is at work."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import pytest
import structlog.testing
from aiohttp import web
from pydantic import SecretStr
from uuid_utils import uuid7

from common.contracts.payments import CreatePayment, PaymentStatus
from payment_service import app
from payment_service.domain import NewPayment
from payment_service.gateway_http import HttpGateway
from payment_service.payments import Payments
from payment_service.settings import Settings
from tests.conftest import open_database
from tests.gateway_process import GatewayProcess


class ClosesSlowly(HttpGateway):
    """As when its connections take their time; recovery has the opportunity to call it a dozen times."""

    async def aclose(self) -> None:
        await super().aclose()
        await asyncio.sleep(0.3)


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway")).start()
    yield process
    process.stop()


async def test_recovery_never_calls_a_gateway_that_is_closed(
    urls: dict[str, str], gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends first. The payment stays what it is, and the next process settles it."""
    monkeypatch.setattr(app, "HttpGateway", ClosesSlowly)
    gateway.behave(unavailable=True)
    settings = Settings(
        database_url=SecretStr(urls["payment"]),
        gateway_url=gateway.url,
        # What recovery is at work on when the service ends is taken up again when this is over.
        lease_s=1,
        recovery_interval_s=0.01,
        retry_first_s=0.01,
        retry_most_s=0.02,
    )
    order_id = f"{uuid4()}"
    async with open_database(urls["payment"]) as database:
        payments = Payments(database, lease_s=0.01)
        await payments.open([NewPayment(str(uuid7()), CreatePayment(order_id=order_id, amount=5))])
        with structlog.testing.capture_logs() as logs:
            await run_until(settings, lambda: "payment_unknown" in events(logs))
            gateway.behave(unavailable=False)
            await run_until(settings, lambda: "captured" in {entry.get("status") for entry in logs})
        assert "recovery_failed" not in events(logs)
        assert (await payments.get(order_id)).status is PaymentStatus.CAPTURED
    assert gateway.approved(order_id) == {("charge", 5): 1}


def events(logs: Iterable[Mapping[str, Any]]) -> set[str]:
    return {entry["event"] for entry in logs}


async def run_until(settings: Settings, is_so: Callable[[], bool]) -> None:
    """Run the service until something is so, and end it in the middle of its work."""
    runner = web.AppRunner(app.make_app(settings))
    await runner.setup()
    try:
        async with asyncio.timeout(10):
            while not is_so():
                await asyncio.sleep(0.01)
    finally:
        await runner.cleanup()
