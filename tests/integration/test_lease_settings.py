"""A lease that ends before the calls of its holder must is named at start."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from common.settings import ServiceSettings
from order_service.settings import Settings as OrderSettings
from payment_service.settings import Settings as PaymentSettings
from tests.processes import ServiceProcess
from vv.databases import Databases

URL = SecretStr("mysql://u:p@h/d")


@pytest.mark.parametrize("settings", [OrderSettings(database_url=URL), PaymentSettings(database_url=URL)])
def test_the_defaults_are_in_no_doubt(settings: ServiceSettings) -> None:
    """What nobody changed needs no warning."""
    assert settings.doubts == []


@pytest.mark.parametrize(
    ("settings", "lease", "timeout"),
    [
        (
            OrderSettings(database_url=URL, lease_s=10, call_timeout_s=5),
            "ORDER_LEASE_S (10)",
            "ORDER_CALL_TIMEOUT_S (5)",
        ),
        (
            PaymentSettings(database_url=URL, lease_s=20, gateway_timeout_s=12),
            "PAYMENT_LEASE_S (20)",
            "PAYMENT_GATEWAY_TIMEOUT_S (12)",
        ),
    ],
)
def test_a_lease_shorter_than_two_calls_is_named(settings: ServiceSettings, lease: str, timeout: str) -> None:
    """In one sentence, with both variables and their values."""
    [doubt] = settings.doubts
    assert lease in doubt
    assert timeout in doubt


def test_doubts_are_logged_at_start(migrated: Databases, tmp_path: Path) -> None:
    """Each once, of a variable that is mistyped, too, but not of another service's; and the service starts all the
    same."""
    environment = {"ORDER_DATABASE_URL": migrated.service_urls["order"], "ORDER_DRAIN_DELAY_S": "0"}
    service = ServiceProcess("order", environment, tmp_path / "order.log")
    service.start(ORDER_LEASE_S="1.5", ORDER_POOL_SIZE="3", PAYMENT_POOL_SIZE="3")
    assert service.stop() == 0
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    lease, mistyped = sorted(line["problem"] for line in lines if line["event"] == "setting_in_doubt")
    assert "ORDER_LEASE_S" in lease
    assert mistyped == "ORDER_POOL_SIZE: no such setting; did you mean ORDER_POOL_SIZE_MAX?"
