"""One run: the goods that are put in, what is checked while buyers come, and the final account."""

import itertools
import random
import secrets
import ssl
import time

import gevent
from gevent.pool import Pool
from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment

from api import Api
from books import Books, Purchase
from common.contracts.inventory import StockLevel
from common.contracts.orders import Order, OrderStatus
from common.contracts.payments import Payment, PaymentStatus
from options import Options
from promises import Promise, PromiseBroken, Promises
from replies import Reply

HOT_PRICE = 9_900
PRICE = 500

_LOOK_AT_STOCK_EVERY_S = 1.0
_LOOK_AT_UNFINISHED_EVERY_S = 0.2
_CALLS_AT_ONCE = 20
_REFUSALS = {"out_of_stock", "payment_declined", "order_cancelled"}


class CannotOpen(Exception):
    """The run cannot begin."""


class Shop:
    """What is sold in a run, and what is known about it."""

    def __init__(self, environment: Environment, options: Options, host: str) -> None:
        self.options = options
        self.books = Books()
        self.promises = Promises(self._report)
        self.is_open = False
        self.is_settled = False
        tag = options.sku_tag or secrets.token_hex(4)
        self.product_id = f"load-{tag}"
        self.hot = f"FLASH-{tag}"
        self.catalogue = [f"ITEM-{n}-{tag}" for n in range(1, options.catalogue + 1)]
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._environment = environment
        self._host = host
        self._tls = options.tls_context()
        session = FastHttpSession(
            host,
            environment.events.request,
            user=None,
            concurrency=_CALLS_AT_ONCE,
            insecure=False,
            ssl_context_factory=self.tls,
        )
        self._api = Api(session, options, self.promises, suffix=" (check)")
        self._inspector: gevent.Greenlet | None = None

    def tls(self) -> ssl.SSLContext:
        """For the connections to the services; one for all."""
        return self._tls

    def api(self, session: FastHttpSession) -> Api:
        """The calls to the services, for a buyer."""
        return Api(session, self.options, self.promises)

    def open(self) -> None:
        """Put the goods in and look at their stock from now on. Raises CannotOpen."""
        for url in ("", self.options.inventory_url, self.options.payment_url):
            reply = self._api.is_ready(url)
            if reply.status != 200:
                at = url or f"{self._host} (--host)"
                raise CannotOpen(
                    f"The service at {at} is not ready: {reply}. Start the stack (make up) or name its URL."
                )
        quantities = {self.hot: self.options.stock} | dict.fromkeys(self.catalogue, self.options.catalogue_stock)
        problems = Pool(_CALLS_AT_ONCE).map(lambda sku: self._put_in(sku, quantities[sku]), quantities)
        if any(problems):
            raise CannotOpen(next(problem for problem in problems if problem))
        self.is_open = True
        self._inspector = gevent.spawn(self._inspect)

    def buyer(self) -> str:
        """The id of another buyer."""
        return f"buyer-{self._run}-{next(self._numbers)}"

    def purchase(self, buyer: str, sku: str, price: int) -> Purchase:
        """What a buyer of a SKU wants: some take more than that, some have a bad card."""
        items = {sku: 1}
        if random.random() < self.options.carts:
            items |= dict.fromkeys(random.sample(self.catalogue, 2), 1)
        method = "tok_declined" if random.random() < self.options.bad_cards else "tok_ok"
        key = f"load-{self._run}-{next(self._numbers)}"
        return Purchase(key, buyer, items, price + PRICE * (len(items) - 1), method)

    def take_answer(self, purchase: Purchase, reply: Reply) -> None:
        """Enter what the buyer was told."""
        order = reply.read(Order) if reply.status in (201, 202) else None
        if order is not None and reply.status == 201:
            purchase.answer = reply
            self._complete(purchase, order.order_id)
        elif order is not None:
            self.books.accept(purchase, order.order_id)
        elif reply.code in _REFUSALS or reply.is_overload:
            purchase.answer = None if reply.is_overload else reply
            self.books.refuse(purchase, reply.code or "")

    def check_replay(self, api: Api, purchase: Purchase) -> None:
        """Whether the request, sent again, is answered as it was at first."""
        assert purchase.answer is not None
        again = api.repeat(purchase)
        if again.status >= 500 or not again.status:
            return
        sentence = "A replay with the same Idempotency-Key was answered differently from the first request."
        where = f"(order {purchase.order_id or 'unknown'}: {purchase.answer}, then {again}) {again.where}"
        self.promises.check(Promise.REPLAYS_EQUAL, again.equals(purchase.answer), sentence, where)
        is_marked = again.headers.get("idempotent-replayed") == "true"
        self.promises.check(Promise.REPLAYS_EQUAL, is_marked, "A replay lacks Idempotent-Replayed: true.", again.where)

    def check_payment(self, api: Api, purchase: Purchase) -> None:
        """Whether the money of a completed or cancelled order is where it belongs."""
        reply = api.payment(purchase.order_id)
        if reply.status not in (200, 404):
            return
        payment = reply.read(Payment)
        status, refunded, kind = PaymentStatus.CAPTURED, 0, "completed"
        if purchase.is_cancelled:
            status, refunded, kind = PaymentStatus.REFUNDED, purchase.total_amount, "cancelled"
        wanted = (status, purchase.total_amount, refunded)
        found = (payment.status, payment.amount, payment.refunded_amount) if payment else None
        sentence = f"A {kind} order does not have the one payment that it should have."
        where = f"(order {purchase.order_id}: should be {_plain(wanted)}, is {_plain(found)})"
        self.promises.check(Promise.CHARGED_ONCE, found == wanted, sentence, where)

    def settle(self) -> None:
        """The final account: wait for what is unfinished, then count the units and look at the latest orders."""
        if self._inspector is not None:
            self._inspector.kill()
        self._finish(self.books.unfinished)
        self._count_units()
        Pool(_CALLS_AT_ONCE).map(self._look_again, list(self.books.recent))
        self.is_settled = True

    def _look_again(self, purchase: Purchase) -> None:
        if self.books.has_ended(purchase):
            self.check_payment(self._api, purchase)
            if purchase.answer is not None and not purchase.is_cancelled:
                self.check_replay(self._api, purchase)

    def _put_in(self, sku: str, quantity: int) -> str | None:
        """What went wrong, if anything."""
        reply = self._api.put_in(self.product_id, sku, quantity)
        level = self._api.stock(sku) if reply.code == "sku_exists" else reply.read(StockLevel)
        if level is None:
            return f"The stock of {sku} could not be put in: {reply}."
        self.books.put_in[sku] = level.quantity
        return None

    def _complete(self, purchase: Purchase, order_id: str) -> None:
        is_new = self.books.complete(purchase, order_id)
        sentence = "Two purchases were given the same order."
        self.promises.check(Promise.NO_OVERSELL, is_new, sentence, f"(order {order_id})")
        for sku in purchase.items:
            held, put_in = self.books.held(sku), self.books.put_in[sku]
            sentence = "More units of a SKU were sold than were put in."
            self.promises.check(Promise.NO_OVERSELL, held <= put_in, sentence, f"({sku}: {held} of {put_in})")

    def _inspect(self) -> None:
        """Look at the stock every second."""
        while True:
            gevent.sleep(_LOOK_AT_STOCK_EVERY_S)
            sold = self.books.sold.copy()
            for sku, left in self._stock().items():
                # What was sold before the look has left the stock; what is returned by now may have been back.
                self._check_units(sku, sold[sku] - self.books.returned[sku], left, is_final=False)

    def _stock(self) -> dict[str, int]:
        levels = self._api.stocks(self.product_id) or ()
        return {level.sku: level.quantity for level in levels if level.sku in self.books.put_in}

    def _count_units(self) -> None:
        stock = self._stock()
        for sku in self.books.put_in:
            left = stock.get(sku)
            if left is None:
                sentence = "The stock could not be read at the end."
                self.promises.check(Promise.NO_OVERSELL, False, sentence, f"({sku})")
            else:
                self._check_units(sku, self.books.held(sku), left, is_final=not self.books.unfinished)

    def _check_units(self, sku: str, held: int, left: int, *, is_final: bool) -> None:
        put_in = self.books.put_in[sku]
        holds = left >= 0 and (held + left == put_in if is_final else held + left <= put_in)
        sentence = "Units sold and units left are not the units that were put in."
        self.promises.check(Promise.NO_OVERSELL, holds, sentence, f"({sku}: {held} sold, {left} left, {put_in} put in)")

    def _finish(self, unfinished: list[Purchase]) -> None:
        """Drive what is unfinished to its end, several at a time, as long as there is time."""
        deadline = time.monotonic() + self.options.settle
        Pool(_CALLS_AT_ONCE).map(lambda purchase: self._wait_for(purchase, deadline), unfinished)
        for purchase in unfinished:
            sentence = f"An order had not ended {self.options.settle:g} s after the run."
            where = f"(order {purchase.order_id or 'unknown'}, Idempotency-Key {purchase.key})"
            self.promises.check(Promise.ORDERS_END, self.books.has_ended(purchase), sentence, where)

    def _wait_for(self, purchase: Purchase, deadline: float) -> None:
        while time.monotonic() < deadline and not self._has_ended(purchase):
            gevent.sleep(_LOOK_AT_UNFINISHED_EVERY_S)

    def _has_ended(self, purchase: Purchase) -> bool:
        """Ask once more, the way a buyer would whose first request was not answered definitely."""
        if purchase in self.books.open:
            self.take_answer(purchase, self._api.repeat(purchase))
        elif purchase in self.books.accepted:
            self._follow(purchase)
        elif purchase in self.books.cancelling and self._api.cancel(purchase.order_id).status == 200:
            self.books.cancel(purchase)
        return self.books.has_ended(purchase)

    def _follow(self, purchase: Purchase) -> None:
        order = self._api.order(purchase.order_id)
        if order is not None and order.status is OrderStatus.COMPLETED:
            self._complete(purchase, order.order_id)
        elif order is not None and order.status in (OrderStatus.FAILED, OrderStatus.CANCELLED):
            self.books.refuse(purchase, order.reason or order.status)

    def _report(self, promise: Promise, error: PromiseBroken) -> None:
        fail(self._environment, "PROMISE", promise.value, error)


def fail(environment: Environment, kind: str, name: str, error: Exception) -> None:
    """Enter a failure that is not the reply to a request into locust's statistics."""
    environment.events.request.fire(
        request_type=kind, name=name, response_time=0, response_length=0, exception=error, context={}
    )


def _plain(values: tuple[object, ...] | None) -> str:
    return "/".join(str(value) for value in values) if values else "none"
