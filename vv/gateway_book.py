"""What the gateway decides: once for each key, by what its ledger says."""

from datetime import UTC, datetime

from common.contracts.payments import RefundExceedsCharge
from common.errors import IdempotencyMismatch
from payment_service.gateway_wire import ChargeNotFound, ChargeStatus, CreateCharge, CreateRefund
from vv.gateway_ledger import Entry, Kind, Ledger

NO_CURRENCY = "XXX"


class Book:
    """An index of the ledger. Each method gives the entry that answers a request, which may not be on the disk yet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._by_key: dict[str, Entry] = {}
        self._refunded: dict[str, int] = {}
        for entry in ledger:
            self._note(entry)

    def find(self, key: str) -> Entry:
        """The charge with this key, or what cancelled it. Raises ChargeNotFound."""
        entry = self._by_key.get(key)
        if entry is None or entry.kind is Kind.REFUND:
            raise ChargeNotFound(f"There is no charge with the key {key}.")
        return entry

    def earlier_charge(self, key: str, wanted: CreateCharge) -> Entry | None:
        """What answers a charge whose key was used before. Raises IdempotencyMismatch for another body."""
        entry = self._by_key.get(key)
        if entry is None or entry.kind is Kind.CANCEL:
            return entry
        asked = (Kind.CHARGE, wanted.amount, wanted.currency, wanted.payment_method, wanted.reference)
        if asked != (entry.kind, entry.amount, entry.currency, entry.payment_method, entry.reference):
            raise IdempotencyMismatch(f"The key {key} was used before with another body.")
        return entry

    def charge(self, key: str, wanted: CreateCharge, why_declined: str | None) -> Entry:
        """A new charge."""
        status = ChargeStatus.APPROVED if why_declined is None else ChargeStatus.DECLINED
        return self._add(
            Kind.CHARGE,
            key,
            key,
            wanted.amount,
            wanted.currency,
            status,
            payment_method=wanted.payment_method,
            reference=wanted.reference,
            reason=why_declined,
        )

    def refund(self, key: str, wanted: CreateRefund) -> tuple[Entry, bool]:
        """The refund, and whether it is new. Raises ChargeNotFound, RefundExceedsCharge, IdempotencyMismatch."""
        earlier = self._by_key.get(key)
        if earlier is not None:
            asked = (Kind.REFUND, wanted.charge_key, wanted.amount, wanted.currency)
            if asked != (earlier.kind, earlier.charge_key, earlier.amount, earlier.currency):
                raise IdempotencyMismatch(f"The key {key} was used before with another body.")
            return earlier, False
        charge = self.find(wanted.charge_key)
        charged = charge.amount if charge.status is ChargeStatus.APPROVED else 0
        rest = charged - self._refunded.get(charge.key, 0)
        if wanted.currency != charge.currency or wanted.amount > rest:
            raise RefundExceedsCharge(
                f"{rest} of the charge are left, in minor units of {charge.currency}, "
                f"not {wanted.amount} of {wanted.currency}.",
                refundable=rest,
            )
        return self._add(Kind.REFUND, key, charge.key, wanted.amount, wanted.currency, ChargeStatus.APPROVED), True

    def cancel(self, key: str) -> tuple[Entry, bool]:
        """See to it that nothing is charged with this key from now on; the charge if one was made, and whether this
        is new. Raises IdempotencyMismatch when the key is that of a refund."""
        earlier = self._by_key.get(key)
        if earlier is None:
            return self._add(Kind.CANCEL, key, key, 0, NO_CURRENCY, ChargeStatus.CANCELLED), True
        if earlier.kind is Kind.REFUND:
            raise IdempotencyMismatch(f"The key {key} is that of a refund.")
        return earlier, False

    def _add(
        self,
        kind: Kind,
        key: str,
        charge_key: str,
        amount: int,
        currency: str,
        status: ChargeStatus,
        **details: str | None,
    ) -> Entry:
        n = len(self._ledger) + 1
        entry = Entry(n, datetime.now(UTC), kind, key, charge_key, amount, currency, status, **details)
        self._ledger.add(entry)
        self._note(entry)
        return entry

    def _note(self, entry: Entry) -> None:
        self._by_key[entry.key] = entry
        if entry.kind is Kind.REFUND:
            self._refunded[entry.charge_key] = self._refunded.get(entry.charge_key, 0) + entry.amount
