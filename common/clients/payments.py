"""The client of the payment service."""

from collections.abc import Sequence

from common.clients.blocking import BlockingClient, blocking
from common.clients.client import AsyncClient
from common.clients.replies import read_outcomes
from common.clients.requests import named_fields, new_request_id
from common.contracts.base import Outcomes
from common.contracts.payments import (
    CancelPayment,
    CreatePayment,
    CreatePaymentBatch,
    Payment,
    PaymentQuery,
    RefundPayment,
)
from common.errors import ServiceError


class AsyncPaymentClient(AsyncClient):
    """Charges orders, and gives money back.

    Amounts are integers in minor units (1999 is 19.99 USD). An order is charged at most once. A Payment that is
    ``pending`` has an outcome that nobody knows yet; ask again with :meth:`get`.
    """

    default_url = "http://127.0.0.1:8083"

    async def create(
        self,
        *,
        order_id: str,
        amount: int,
        currency: str = "USD",
        payment_method: str = "tok_ok",
        user_id: str | None = None,
    ) -> Payment:
        """Charge an order; the same order again gives the same payment. Only ``user_id`` and staff may see it.

        Raises PaymentDeclined and PaymentCancelled.
        """
        with named_fields:
            charge = CreatePayment(
                order_id=order_id, amount=amount, currency=currency, payment_method=payment_method, user_id=user_id
            )
        return await self._call("POST", "/payments", Payment, body=charge)

    async def create_batch(self, items: Sequence[CreatePayment]) -> list[Payment | ServiceError]:
        """Several charges in one request, each with its own outcome, in order."""
        with named_fields:
            batch = CreatePaymentBatch(items=[*items])
        outcomes = await self._call("POST", "/payments/batch", Outcomes[Payment], body=batch)
        return read_outcomes(outcomes, expected=len(items))

    async def get(self, order_id: str) -> Payment:
        """The payment of an order. Raises PaymentNotFound."""
        with named_fields:
            query = PaymentQuery(order_id=order_id)
        return await self._call("GET", "/payments", Payment, query=query)

    async def refund(self, *, order_id: str, amount: int | None = None, request_id: str | None = None) -> Payment:
        """Give back ``amount``, or all that is left of the charge; once only for a ``request_id``.

        Without a ``request_id`` the call makes its own, the same for all its attempts.

        Raises PaymentNotFound, NothingCaptured, RefundExceedsCharge and PaymentUnresolved.
        """
        with named_fields:
            refund = RefundPayment(order_id=order_id, amount=amount, request_id=request_id or new_request_id())
        return await self._call("POST", "/payments/refund", Payment, body=refund)

    async def cancel(self, order_id: str) -> Payment:
        """See to it that the order is not charged: void its payment, or refund whatever was charged."""
        with named_fields:
            cancellation = CancelPayment(order_id=order_id)
        return await self._call("POST", "/payments/cancel", Payment, body=cancellation)


class PaymentClient(BlockingClient[AsyncPaymentClient]):
    """:class:`AsyncPaymentClient` for scripts without an event loop: the same methods, blocking."""

    async_class = AsyncPaymentClient

    create = blocking(AsyncPaymentClient.create)
    create_batch = blocking(AsyncPaymentClient.create_batch)
    get = blocking(AsyncPaymentClient.get)
    refund = blocking(AsyncPaymentClient.refund)
    cancel = blocking(AsyncPaymentClient.cancel)
