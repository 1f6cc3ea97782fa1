"""A gateway that needs nothing: the payment method decides the outcome, and its own table says what was charged."""

import asyncio
from functools import partial

from common.database import Database, DuplicateKey, Transaction
from payment_service.gateway import ChargeResult, GatewayUnavailable

APPROVED = {"tok_ok", "tok_timeout", "tok_slow"}
DECLINED = {"tok_declined": "card_declined"}


class SandboxGateway:
    """``tok_ok`` is approved, ``tok_declined`` declined, ``tok_slow`` approved after ``slow_s`` seconds;
    ``tok_timeout`` is charged but the reply is lost, ``tok_error`` fails before anything is charged."""

    def __init__(self, database: Database, *, latency_s: float, slow_s: float) -> None:
        self._database = database
        self._latency_s = latency_s
        self._slow_s = slow_s

    async def charge(self, key: str, *, amount: int, currency: str, payment_method: str) -> ChargeResult:
        await asyncio.sleep(self._latency_s + (self._slow_s if payment_method == "tok_slow" else 0))
        if payment_method == "tok_error":
            raise GatewayUnavailable("The sandbox failed, as tok_error asks.")
        approved = payment_method in APPROVED
        is_first = await self._database.transaction(
            partial(_insert, row=(key, "charge", key, amount, currency, approved))
        )
        if payment_method == "tok_timeout" and is_first:
            raise GatewayUnavailable("The reply of the sandbox was lost, as tok_timeout asks.")
        result = await self.find(key)
        assert result is not None
        return result if result.approved else ChargeResult(False, DECLINED.get(payment_method, "unknown_card"))

    async def find(self, key: str) -> ChargeResult | None:
        row = await self._database.read(partial(_get, key=key))
        return None if row is None else ChargeResult(bool(row[0]), None if row[0] else "card_declined")

    async def refund(self, key: str, *, charge_key: str, amount: int, currency: str) -> None:
        await asyncio.sleep(self._latency_s)
        await self._database.transaction(partial(_insert, row=(key, "refund", charge_key, amount, currency, True)))


async def _insert(tx: Transaction, *, row: tuple[str, str, str, int, str, bool]) -> bool:
    """Whether the key is new. Rows of (gateway_key, kind, charge_key, amount, currency, approved)."""
    try:
        await tx.execute(
            "INSERT INTO sandbox_gateway (gateway_key, kind, charge_key, amount, currency, approved) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            row,
        )
    except DuplicateKey:
        return False
    return True


async def _get(tx: Transaction, *, key: str) -> tuple[int] | None:
    return await tx.fetch_one("SELECT approved FROM sandbox_gateway WHERE gateway_key = %s", (key,))
