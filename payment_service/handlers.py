"""From HTTP to a use case and back."""

from common.contracts.payments import (
    CancelPayment,
    CreatePayment,
    CreatePaymentBatch,
    Payment,
    PaymentQuery,
    PaymentStatus,
    RefundPayment,
)
from common.routes import Call, Reply, batch_reply
from common.telemetry import bind_orders
from payment_service.charges import Charges
from payment_service.domain import OUTSTANDING
from payment_service.payments import Payments


class Handlers:
    def __init__(self, charges: Charges, payments: Payments) -> None:
        self._charges = charges
        self._payments = payments

    async def create(self, call: Call[CreatePayment, None, None]) -> Reply:
        bind_orders(call.body.order_id)
        payment = await self._charges.charge(call.body)
        return Reply(_status_of_charge(payment), payment)

    async def create_batch(self, call: Call[CreatePaymentBatch, None, None]) -> Reply:
        bind_orders(*(item.order_id for item in call.body.items))
        return batch_reply(await self._charges.charge_batch(call.body.items), _status_of_charge)

    async def get(self, call: Call[None, PaymentQuery, None]) -> Reply:
        return Reply(200, (await self._payments.get(call.query.order_id, owner=call.caller.owner)).to_contract())

    async def refund(self, call: Call[RefundPayment, None, None]) -> Reply:
        bind_orders(call.body.order_id)
        return _done_or_accepted(await self._charges.refund(call.body, owner=call.caller.owner))

    async def cancel(self, call: Call[CancelPayment, None, None]) -> Reply:
        bind_orders(call.body.order_id)
        return _done_or_accepted(await self._charges.cancel(call.body.order_id))


def _status_of_charge(payment: Payment) -> int:
    return 202 if payment.status is PaymentStatus.PENDING else 201


def _done_or_accepted(payment: Payment) -> Reply:
    return Reply(202 if payment.status in OUTSTANDING else 200, payment)
