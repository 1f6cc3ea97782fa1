"""The port to a payment gateway. Anything that speaks it can take the sandbox's place."""

from dataclasses import dataclass
from typing import Protocol


class GatewayUnavailable(Exception):
    """The gateway gave no answer: whether it did what was asked is unknown."""


@dataclass(frozen=True)
class ChargeResult:
    """What became of a charge; ``reason`` says why it was not approved."""

    approved: bool
    reason: str | None = None


class Gateway(Protocol):
    """Every call may raise GatewayUnavailable. Amounts are in minor units. Keys make calls repeatable."""

    async def charge(self, key: str, *, amount: int, currency: str, payment_method: str) -> ChargeResult:
        """Charge once per ``key``; a repeated call is answered with the first one's result."""

    async def find(self, key: str) -> ChargeResult | None:
        """The result of the charge with this key, or ``None`` when the gateway does not know it."""

    async def refund(self, key: str, *, charge_key: str, amount: int, currency: str) -> None:
        """Give back ``amount`` of a charge once per ``key``."""
