"""The language of the gateway process: what ``vv gateway`` answers and ``HttpGateway`` asks, as JSON over HTTP."""

from enum import StrEnum, auto

from pydantic import Field

from common.contracts.base import Amount, Currency, IdempotencyKey, PaymentMethod, Request, View
from common.errors import NotFound


class ChargeNotFound(NotFound):
    """The gateway knows of no charge with this key."""

    code = "charge_not_found"


class ChargeStatus(StrEnum):
    APPROVED = auto()
    DECLINED = auto()
    CANCELLED = auto()
    """Nothing was charged with this key and nothing ever will be."""


class KeyHeader(Request):
    idempotency_key: IdempotencyKey = Field(alias="Idempotency-Key", description="the same key takes effect once only")


class CreateCharge(Request):
    """Take ``amount`` off a payment method. ``reference`` is what the caller calls it, such as an order id."""

    amount: Amount
    currency: Currency
    payment_method: PaymentMethod
    reference: IdempotencyKey


class CreateRefund(Request):
    """Give back ``amount`` of the charge that was made with ``charge_key``."""

    charge_key: IdempotencyKey
    amount: Amount
    currency: Currency


class ChargeQuery(Request):
    key: IdempotencyKey


class Charge(View):
    """What became of a charge; ``reason`` says why it was not approved."""

    id: str
    status: ChargeStatus
    reason: str | None = None


class Refund(View):
    id: str
    status: ChargeStatus
