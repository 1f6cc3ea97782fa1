"""The client of the order service."""

import asyncio
import time
from collections.abc import AsyncIterator

from common.clients.blocking import BlockingClient, blocking, blocking_iterator
from common.clients.client import AsyncClient
from common.clients.requests import Items, named_fields, new_request_id, stock_lines
from common.contracts.base import Page
from common.contracts.orders import (
    FINAL,
    CreateOrder,
    CreateOrderHeaders,
    ListOrdersQuery,
    Order,
    OrderQuery,
    OrderStatus,
    OrderTimeline,
    PatchOrder,
)
from common.errors import DeadlineExceeded

_POLL_S = 0.25


class AsyncOrderClient(AsyncClient):
    """Places orders and follows them.

    Amounts are integers in minor units (1999 is 19.99 USD).
    """

    default_url = "http://127.0.0.1:8081"

    async def create(
        self,
        *,
        user_id: str | None = None,
        total_amount: int,
        sku: str | None = None,
        quantity: int | None = None,
        items: Items | None = None,
        currency: str = "USD",
        payment_method: str = "tok_ok",
        idempotency_key: str | None = None,
    ) -> Order:
        """Place an order of one ``sku``, or of several ``items``; a token may say who buys in place of ``user_id``.

        Without an ``idempotency_key`` each call is an order of its own; give one to be able to repeat the call after
        a crash of your own. The order may come back with its payment still unknown (see :meth:`wait`).

        Raises OutOfStock, SkuNotFound, PaymentDeclined and IdempotencyMismatch.
        """
        with named_fields:
            order = CreateOrder(
                user_id=user_id,
                sku=sku,
                quantity=quantity,
                items=None if items is None else stock_lines(items),
                total_amount=total_amount,
                currency=currency,
                payment_method=payment_method,
            )
            key = CreateOrderHeaders.model_validate({"Idempotency-Key": idempotency_key}).idempotency_key
        headers = {"Idempotency-Key": key or new_request_id()}
        return await self._call("POST", "/orders", Order, body=order, headers=headers)

    async def get(self, order_id: str) -> Order:
        """Raises OrderNotFound."""
        with named_fields:
            OrderQuery(order_id=order_id)
        return await self._call("GET", f"/orders/{order_id}", Order)

    def list(
        self, *, user_id: str | None = None, status: OrderStatus | str | None = None, page_size: int = 50
    ) -> AsyncIterator[Order]:
        """Every order, newest first, of a user and in a status if given; ``page_size`` orders a request."""
        with named_fields:
            query = ListOrdersQuery.model_validate(
                {"user_id": user_id, "status": status, "limit": page_size}, strict=False
            )
        return self._items("/orders", Page[Order], query)

    async def events(self, order_id: str) -> OrderTimeline:
        """Every transition of an order with its time and reason. Raises OrderNotFound."""
        with named_fields:
            OrderQuery(order_id=order_id)
        return await self._call("GET", f"/orders/{order_id}/events", OrderTimeline)

    async def cancel(self, order_id: str) -> Order:
        """Cancel an order, restock it and give the money back. Once cancelled, cancelling it again changes nothing.

        Raises OrderNotFound and InvalidTransition.
        """
        with named_fields:
            patch = PatchOrder(order_id=order_id, status=OrderStatus.CANCELLED.value)
        return await self._call("PATCH", "/orders", Order, body=patch)

    async def wait(self, order_id: str, *, timeout_s: float) -> Order:
        """Ask for an order until it is completed, failed or cancelled.

        Raises OrderNotFound, and DeadlineExceeded when it is none of these after ``timeout_s`` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            order = await self.get(order_id)
            if order.status in FINAL:
                return order
            if time.monotonic() + _POLL_S >= deadline:
                raise DeadlineExceeded(f"Order {order_id} is still {order.status.value} after {timeout_s:g} s.")
            await asyncio.sleep(_POLL_S)


class OrderClient(BlockingClient[AsyncOrderClient]):
    """:class:`AsyncOrderClient` for scripts without an event loop: the same methods, blocking."""

    async_class = AsyncOrderClient

    create = blocking(AsyncOrderClient.create)
    get = blocking(AsyncOrderClient.get)
    list = blocking_iterator(AsyncOrderClient.list)
    events = blocking(AsyncOrderClient.events)
    cancel = blocking(AsyncOrderClient.cancel)
    wait = blocking(AsyncOrderClient.wait)
