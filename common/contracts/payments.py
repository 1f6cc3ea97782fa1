"""The language of the payment service."""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from common.contracts.base import (
    BATCH_MAX,
    Amount,
    CallerRequestId,
    Currency,
    PaymentMethod,
    Request,
    Timestamp,
    TraceContext,
    UserId,
    Uuid,
    View,
)
from common.errors import Conflict, NotFound, ServiceError

# What the document of the API shows.
_AN_ORDER = "01a2042a-7bf1-7255-ad0b-a61e96c9d686"


class PaymentDeclined(ServiceError):
    """The payment was declined."""

    code = "payment_declined"
    status = 402


class PaymentNotFound(NotFound):
    """There is no payment for this order."""

    code = "payment_not_found"


class PaymentCancelled(Conflict):
    """The payment of this order was cancelled and can no longer be charged."""

    code = "payment_cancelled"


class PaymentUnresolved(Conflict):
    """The outcome of the charge is still unknown."""

    code = "payment_unresolved"
    retryable = True


class RefundExceedsCharge(Conflict):
    """The refund exceeds what was captured and not yet refunded."""

    code = "refund_exceeds_charge"


class NothingCaptured(Conflict):
    """Nothing was captured that could be refunded."""

    code = "nothing_captured"


class PaymentStatus(StrEnum):
    PENDING = "pending"
    """Nobody knows yet whether the charge happened."""
    CAPTURED = "captured"
    DECLINED = "declined"
    CANCELLING = "cancelling"
    """The order was cancelled while the outcome of its charge was unknown."""
    REFUNDING = "refunding"
    """A refund was decided and not yet confirmed by the gateway."""
    REFUNDED = "refunded"
    VOIDED = "voided"
    """Nothing was charged and nothing ever will be."""


class CreatePayment(Request):
    """Charge an order. The same order is charged once only."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"order_id": _AN_ORDER, "amount": 1998}]})

    order_id: Uuid
    amount: Amount
    currency: Currency = "USD"
    payment_method: PaymentMethod = "tok_ok"
    user_id: UserId | None = Field(None, description="the buyer; only the buyer and staff may see the payment")
    trace: TraceContext | None = Field(
        None, description="`traceparent` of the order, where several share a request and each has a trace of its own"
    )


class CreatePaymentBatch(Request):
    """Several charges, each with its own outcome."""

    items: Annotated[list[CreatePayment], Field(min_length=1, max_length=BATCH_MAX)]


class RefundPayment(Request):
    """Give back ``amount``, or all that is left of the charge."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"order_id": _AN_ORDER, "amount": 999, "request_id": "return-3"}]},
    )

    order_id: Uuid
    amount: Amount | None = None
    request_id: CallerRequestId | None = Field(None, description="the same id takes effect once only")


class CancelPayment(Request):
    """See to it that the order is not charged: void it, or refund whatever was charged."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"order_id": _AN_ORDER}]})

    order_id: Uuid


class PaymentQuery(Request):
    order_id: Uuid


class Payment(View):
    """The payment of one order."""

    payment_id: str
    order_id: str
    user_id: str | None = Field(None, description="who buys; null when nobody said")
    amount: int
    currency: str
    payment_method: str
    status: PaymentStatus
    refunded_amount: int = Field(description="refunds confirmed or under way")
    reason: str | None
    created_at: Timestamp
    updated_at: Timestamp
