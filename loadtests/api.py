"""The calls of a load test. Every reply is held against the contract, whoever asked."""

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from locust.contrib.fasthttp import FastHttpSession
from pydantic import BaseModel

from books import Purchase
from common.contracts.base import Page
from common.contracts.inventory import StockLevel, StockLevels
from common.contracts.orders import Order
from common.contracts.payments import Payment
from options import Options
from promises import Promise, Promises
from replies import Reply

Expected = Mapping[tuple[int, str | None], type[BaseModel] | None]
"""The outcomes that a call may have, and what the bodies of the good ones are."""

_PLACED: Expected = {
    (201, None): Order,
    (202, None): Order,
    (402, "payment_declined"): None,
    (409, "out_of_stock"): None,
}
_REPEATED: Expected = {**_PLACED, (409, "request_in_progress"): None, (409, "order_cancelled"): None}


class Api:
    """Calls the three services with one HTTP session, whose requests are in locust's statistics.

    ``suffix`` follows their names there, to tell the checks of the run from the load.
    """

    def __init__(self, session: FastHttpSession, options: Options, promises: Promises, suffix: str = "") -> None:
        self._session = session
        self._options = options
        self._promises = promises
        self._suffix = suffix

    def is_ready(self, url: str) -> Reply:
        return self._call("GET", f"{url}/readyz", {(200, None): None}, name="/readyz")

    def place(self, purchase: Purchase, *, since: float | None = None) -> Reply:
        """``POST /orders``. ``since`` (``time.perf_counter``) is when the request was due, if not now."""
        return self._call("POST", "/orders", _PLACED, name="/orders", since=since, **_order(purchase))

    def repeat(self, purchase: Purchase) -> Reply:
        """``POST /orders`` again, which may meet the first request."""
        return self._call("POST", "/orders", _REPEATED, name="/orders (replay)", **_order(purchase))

    def order(self, order_id: str) -> Order | None:
        reply = self._call("GET", f"/orders/{order_id}", {(200, None): Order}, name="/orders/{order_id}")
        return reply.read(Order)

    def orders_of(self, user_id: str) -> None:
        self._call("GET", _with("/orders", user_id=user_id, limit=20), {(200, None): Page[Order]}, name="/orders")

    def cancel(self, order_id: str) -> Reply:
        body = {"order_id": order_id, "status": "cancelled"}
        return self._call("PATCH", "/orders", {(200, None): Order, (202, None): Order}, name="/orders", json=body)

    def payment(self, order_id: str) -> Reply:
        url = _with(f"{self._options.payment_url}/payments", order_id=order_id)
        return self._call("GET", url, {(200, None): Payment, (404, "payment_not_found"): None}, name="/payments")

    def stock(self, sku: str) -> StockLevel | None:
        url = _with(f"{self._options.inventory_url}/inventory/sku", sku=sku)
        return self._call("GET", url, {(200, None): StockLevel}, name="/inventory/sku").read(StockLevel)

    def stocks(self, product_id: str) -> list[StockLevel] | None:
        url = _with(f"{self._options.inventory_url}/inventories", product_id=product_id)
        levels = self._call("GET", url, {(200, None): StockLevels}, name="/inventories").read(StockLevels)
        return levels.items if levels else None

    def put_in(self, product_id: str, sku: str, quantity: int) -> Reply:
        url = f"{self._options.inventory_url}/inventory/create"
        body = {"product_id": product_id, "sku": sku, "quantity": quantity}
        expected: Expected = {(201, None): StockLevel, (409, "sku_exists"): None}
        return self._call("POST", url, expected, name="/inventory/create", json=body)

    def _call(
        self, method: str, url: str, expected: Expected, *, name: str, since: float | None = None, **sent: Any
    ) -> Reply:
        name += self._suffix
        began = time.perf_counter()
        with self._session.request(method, url, name=name, catch_response=True, **sent) as response:
            if since is not None:
                response.request_meta["response_time"] += 1000 * (began - since)
            reply = Reply.of(response)
            if reply.outcome in expected or (reply.is_overload and self._options.allow_overload):
                response.success()
            elif 0 < reply.status < 400:
                response.failure(f"{reply} is not in the contract of this call.")
        self._judge(f"{method} {name}", reply, expected)
        return reply

    def _judge(self, call: str, reply: Reply, expected: Expected) -> None:
        if reply.is_overload:
            self._promises.overloads += 1
        if not reply.status:
            self._promises.check(Promise.AS_DOCUMENTED, False, f"{call} got no reply.", f"({reply.error})")
        elif reply.status >= 500:
            is_allowed = reply.is_overload and self._options.allow_overload
            self._promises.check(Promise.NO_5XX, is_allowed, f"{call} was answered {reply}.", reply.where)
        else:
            self._promises.check(Promise.NO_5XX, True)
            model = expected.get(reply.outcome)
            fits = reply.outcome in expected and (model is None or reply.read(model) is not None)
            body = f" with a body that is no {model.__name__}" if model else ""
            self._promises.check(Promise.AS_DOCUMENTED, fits, f"{call} was answered {reply}{body}.", reply.where)


def _order(purchase: Purchase) -> dict[str, Any]:
    return {"json": purchase.body, "headers": {"Idempotency-Key": purchase.key}}


def _with(path: str, **query: object) -> str:
    return f"{path}?{urlencode(query)}"
