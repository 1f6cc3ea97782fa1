"""The port to a payment gateway. Anything that speaks it can take the sandbox's place."""

from dataclasses import dataclass
from typing import Protocol

from payment_service.gateway_wire import ChargeStatus


class GatewayUnavailable(Exception):
    """The gateway gave no answer that decides anything: whether it did what was asked is unknown."""


@dataclass(frozen=True)
class ChargeResult:
    """What became of a charge; ``reason`` says why it was declined."""

    status: ChargeStatus
    reason: str | None = None


class Gateway(Protocol):
    """Every call may raise GatewayUnavailable. Amounts are in minor units. Keys make calls repeatable."""

    async def charge(
        self, key: str, *, amount: int, currency: str, payment_method: str, reference: str
    ) -> ChargeResult:
        """Charge once per ``key``; a repeated call is answered with the first one's result, and one whose key was
        cancelled with that. ``reference`` is what the books call it."""

    async def find(self, key: str) -> ChargeResult | None:
        """The result of the charge with this key, or ``None`` when the gateway does not know it (yet)."""

    async def cancel(self, key: str) -> ChargeResult:
        """The result of the charge with this key; if there is none the key is cancelled, and never charged."""

    async def refund(self, key: str, *, charge_key: str, amount: int, currency: str) -> None:
        """Give back ``amount`` of a charge once per ``key``."""

    async def aclose(self) -> None:
        """Let go of connections."""
