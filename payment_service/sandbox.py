"""A gateway that needs nothing: the payment method decides the outcome, and its own table says what was charged.

A cancelled key is a row, too: the late charge collides with it.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

from common.batching import Batcher
from common.database import Database
from common.telemetry import Metrics
from common.transaction import DuplicateKey, Transaction
from payment_service.gateway import ChargeResult, GatewayUnavailable
from payment_service.gateway_wire import ChargeStatus
from payment_service.settings import Settings

APPROVED = {"tok_ok", "tok_timeout", "tok_slow"}
DECLINED = {"tok_declined": "card_declined"}
# ISO 4217 for 'no currency': with a cancelled key no money moves.
_NO_CURRENCY = "XXX"

# A row of the table: its key, the kind, the key of the charge, the amount, the currency, whether money moved, why it
# was declined.
Record = tuple[str, str, str, int, str, bool, str | None]


class SandboxGateway:
    """``tok_ok`` is approved, ``tok_declined`` declined, ``tok_slow`` approved after ``sandbox_slow_s`` seconds;
    ``tok_timeout`` is charged but the reply is lost, ``tok_error`` fails before anything is charged."""

    def __init__(self, database: Database, settings: Settings, metrics: Metrics) -> None:
        self._database = database
        self._latency_s = settings.sandbox_latency_s
        self._slow_s = settings.sandbox_slow_s
        self._records: Batcher[Record, None] = Batcher("sandbox", self._write, settings, metrics)

    async def charge(
        self, key: str, *, amount: int, currency: str, payment_method: str, reference: str
    ) -> ChargeResult:
        await asyncio.sleep(self._latency_s + (self._slow_s if payment_method == "tok_slow" else 0))
        if payment_method == "tok_error":
            raise GatewayUnavailable("The sandbox failed, as tok_error asks.")
        reason = None if payment_method in APPROVED else DECLINED.get(payment_method, "unknown_card")
        try:
            await self._records.submit((key, "charge", key, amount, currency, reason is None, reason))
        except DuplicateKey:
            return await self._recorded(key)
        if payment_method == "tok_timeout":
            raise GatewayUnavailable("The reply of the sandbox was lost, as tok_timeout asks.")
        return ChargeResult(ChargeStatus.APPROVED if reason is None else ChargeStatus.DECLINED, reason)

    async def find(self, key: str) -> ChargeResult | None:
        row = await self._database.read(partial(_get, key=key))
        return None if row is None else _result(*row)

    async def cancel(self, key: str) -> ChargeResult:
        await asyncio.sleep(self._latency_s)
        with contextlib.suppress(DuplicateKey):
            await self._records.submit((key, "cancel", key, 0, _NO_CURRENCY, False, None))
        return await self._recorded(key)

    async def refund(self, key: str, *, charge_key: str, amount: int, currency: str) -> None:
        await asyncio.sleep(self._latency_s)
        with contextlib.suppress(DuplicateKey):
            await self._records.submit((key, "refund", charge_key, amount, currency, True, None))

    async def aclose(self) -> None:
        """It has nothing of its own."""

    async def _recorded(self, key: str) -> ChargeResult:
        recorded = await self.find(key)
        assert recorded is not None
        return recorded

    async def _write(self, records: Sequence[Record]) -> list[None]:
        await self._database.transaction(partial(_insert, records=records))
        return [None] * len(records)


async def _insert(tx: Transaction, *, records: Sequence[Record]) -> None:
    """Raises DuplicateKey."""
    tx.defer_values(
        "INSERT INTO sandbox_gateway (gateway_key, kind, charge_key, amount, currency, approved, reason) VALUES %s",
        records,
        "(%s, %s, %s, %s, %s, %s, %s)",
    )
    await tx.commit()


async def _get(tx: Transaction, *, key: str) -> tuple[str, int, str | None] | None:
    return await tx.fetch_one("SELECT kind, approved, reason FROM sandbox_gateway WHERE gateway_key = %s", (key,))


def _result(kind: str, approved: int, reason: str | None) -> ChargeResult:
    if kind == "cancel":
        return ChargeResult(ChargeStatus.CANCELLED)
    return ChargeResult(ChargeStatus.APPROVED) if approved else ChargeResult(ChargeStatus.DECLINED, reason)
