"""Load tests of a running stack (``make up``), which check what the backend promises while they run.

    make load                                                      the web page, at http://127.0.0.1:8089
    make load ARGS="--headless FlashSale -u 500 -r 500"            one SKU, everybody at once
    make load ARGS="--headless BrowseAndBuy -u 50 -r 50 -t 30s"    reads and writes mixed
    make load ARGS="--headless Steady --rate 100 -t 30s"           100 buyers a second, however slow the replies

This file has the scenarios. Beside it: ``options.py`` (what can be set), ``run.py`` (how a run begins and ends),
``shop.py`` (its goods and checks), ``promises.py`` (what is checked), ``books.py`` (what buyers were told), ``api.py``.

Exit code: 0 every promise was kept, 1 one was broken or a request failed, 2 the run could not begin.
"""

import random
import time

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, between, task
from locust.env import Environment
from locust.exception import StopUser

from books import Purchase
from run import DEFAULT_HOST, all_are_here, the_shop
from shop import HOT_PRICE, PRICE, fail


class TurnedAway(Exception):
    """A buyer came while too many were being served, and was not."""


class Shopper(FastHttpUser):
    """Somebody who buys."""

    abstract = True
    host = DEFAULT_HOST
    insecure = False

    def __init__(self, environment: Environment) -> None:
        self.shop = the_shop()
        self.ssl_context_factory = self.shop.tls
        super().__init__(environment)
        self.api = self.shop.api(self.client)

    def buy(self, buyer: str, sku: str, price: int, *, since: float | None = None) -> Purchase | None:
        """Buy, and now and then repeat the request and look up the payment. The purchase, if it was completed."""
        purchase = self.shop.purchase(buyer, sku, price)
        self.shop.books.send(purchase)
        reply = self.api.place(purchase, since=since)
        self.shop.take_answer(purchase, reply)
        if purchase.answer is not None and random.random() < self.shop.options.replays:
            self.shop.check_replay(self.api, purchase)
        if reply.status != 201 or purchase.answer is None:
            return None
        if random.random() < self.shop.options.payment_checks:
            self.shop.check_payment(self.api, purchase)
        return purchase


class FlashSale(Shopper):
    """One SKU with --stock units: everybody waits until all are spawned, buys once, and leaves."""

    @task
    def rush(self) -> None:
        all_are_here.wait()
        self.buy(self.shop.buyer(), self.shop.hot, HOT_PRICE)
        raise StopUser


class BrowseAndBuy(Shopper):
    """Looks at the catalogue and at orders, buys, and cancels some of it."""

    wait_time = between(0.1, 0.5)

    def on_start(self) -> None:
        self.name = self.shop.buyer()
        self.bought: list[Purchase] = []

    @task(4)
    def look_at_the_catalogue(self) -> None:
        self.api.stocks(self.shop.product_id)

    @task(4)
    def look_at_an_article(self) -> None:
        self.api.stock(random.choice(self.shop.catalogue))

    @task(2)
    def look_at_my_orders(self) -> None:
        self.api.orders_of(self.name)

    @task(2)
    def look_at_an_order(self) -> None:
        if self.bought:
            self.api.order(random.choice(self.bought).order_id)

    @task(4)
    def buy_something(self) -> None:
        purchase = self.buy(self.name, random.choice(self.shop.catalogue), PRICE)
        if purchase is not None:
            self.bought = [*self.bought[-9:], purchase]

    @task(1)
    def cancel_an_order(self) -> None:
        if not self.bought:
            return
        purchase = self.bought.pop()
        self.shop.books.send_cancel(purchase)
        if self.api.cancel(purchase.order_id).status == 200:
            self.shop.books.cancel(purchase)
            self.shop.check_payment(self.api, purchase)


class Steady(Shopper):
    """An open load: --rate buyers a second arrive on a schedule that does not wait for replies.

    One user keeps the schedule, however many there are, and serves every arrival in a greenlet of its own. The time of
    a POST /orders counts from the scheduled arrival, so what the load generator itself is late by is in it.
    """

    fixed_count = 1

    def __init__(self, environment: Environment) -> None:
        self.concurrency = the_shop().options.in_flight_max
        super().__init__(environment)
        self.arrivals = Pool(self.concurrency)

    def on_start(self) -> None:
        self.next_at = time.perf_counter()

    @task
    def arrive(self) -> None:
        self.next_at += 1 / self.shop.options.rate
        gevent.sleep(max(0.0, self.next_at - time.perf_counter()))
        if self.arrivals.full():
            self._turn_away()
        else:
            self.arrivals.spawn(self._serve, self.next_at).link_exception(self._report_error)

    def on_stop(self) -> None:
        self.arrivals.join(timeout=self.shop.options.settle)
        self.arrivals.kill()

    def _serve(self, due_at: float) -> None:
        self.buy(self.shop.buyer(), random.choice(self.shop.catalogue), PRICE, since=due_at)

    def _report_error(self, arrival: gevent.Greenlet) -> None:
        """List an error of these load tests where locust lists those of its own greenlets."""
        error = arrival.exception
        self.environment.events.user_error.fire(user_instance=self, exception=error, tb=error.__traceback__)

    def _turn_away(self) -> None:
        reason = f"Not sent: {self.arrivals.size} buyers are being served already (--in-flight-max)."
        fail(self.environment, "ARRIVAL", "Steady", TurnedAway(reason))
