"""Seeded buyers. Each request is sent once and its reply is seen as it comes: the client library would retry."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp

from tests.faults.harness.history import History, Kind, Operation
from tests.faults.harness.shop import Shop

# Longer than a healthy checkout takes, shorter than some faults last, so that both kinds of ends are seen.
_PATIENCE_S = 5.0
_TRIES = 8
_CLOSES_WITHIN_S = 15.0


class Counters:
    """The three services as buyers see them: an HTTP session each; whatever is sent is in the history."""

    def __init__(self, history: History, sessions: Mapping[str, aiohttp.ClientSession]) -> None:
        self.history = history
        self._sessions = sessions

    async def send(
        self,
        kind: Kind,
        subject: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        timeout_s: float = _PATIENCE_S,
    ) -> Operation:
        """Send a request once and wait for what comes of it, ``timeout_s`` seconds at the most."""
        operation = self.history.begin(kind, subject, method, path, body, key)
        headers = {"Idempotency-Key": key} if key else {}
        session = self._sessions[path.split("?")[0].split("/")[1]]
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with session.request(method, path, json=body, headers=headers, timeout=timeout) as reply:
                told = await reply.json(content_type=None)
                self.history.end(operation, reply.status, told if isinstance(told, dict) else {"value": told})
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self.history.end(operation, 0, {"error": f"{type(error).__name__}: {error}"})
        return operation


@asynccontextmanager
async def open_counters(history: History, order: str, inventory: str, payment: str) -> AsyncIterator[Counters]:
    """Connections to the services at these URLs."""
    urls = {"orders": order, "inventory": inventory, "payments": payment}
    sessions = {path: aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) for path, url in urls.items()}
    try:
        yield Counters(history, sessions)
    finally:
        for session in sessions.values():
            await session.close()


class Buyer:
    """One customer after another, all with the same dice; each buys under a name of his own."""

    def __init__(self, name: str, counters: Counters, shop: Shop, chance: random.Random) -> None:
        self._name = name
        self._counters = counters
        self._shop = shop
        self._chance = chance
        self._visits = 0
        self._bought: list[str] = []
        self._scripts: dict[str, Callable[[str], Awaitable[object]]] = {
            "buy": self._buy,
            "buy_without_a_key": self._buy_without_a_key,
            "send_at_once": self._send_at_once,
            "regret": self._regret,
            "regret_at_once": self._regret_at_once,
            "ask_for_money_back": self._ask_for_money_back,
            "misuse_a_key": self._misuse_a_key,
            "take_stock": self._take_stock,
            "give_back_first": self._give_back_first,
            "restock": self._restock,
        }

    async def visit(self) -> None:
        """Play one script to its end."""
        self._visits += 1
        await self._scripts[self._shop.script(self._chance)](f"{self._name}-{self._visits}")

    async def _order(self, user: str, body: Mapping[str, Any], kind: Kind = Kind.ORDER) -> Operation:
        return await self._counters.send(kind, user, "POST", "/orders", body, key=f"{user}-key")

    async def _insist(self, first: Operation, again: Callable[[], Awaitable[Operation]]) -> Operation:
        """Ask until there is a definite answer; some lose patience, and their outcome stays unknown."""
        answer = first
        for attempt in range(_TRIES):
            is_decided = answer.is_refused or (answer.is_ok and answer.status != 202)
            if is_decided or self._chance.random() < 0.08:
                break
            await asyncio.sleep(min(1.0, 0.05 * 2**attempt) * self._chance.uniform(0.5, 1))
            answer = await again()
        return answer

    async def _buy(self, user: str) -> Operation:
        body = self._shop.order(self._chance, user)
        answer = await self._insist(await self._order(user, body), lambda: self._order(user, body, Kind.REPEAT))
        if self._chance.random() < 0.3:
            await self._order(user, body, Kind.REPEAT)
        if answer.order_id is not None:
            self._bought.append(answer.order_id)
            await self._look(answer.order_id)
        return answer

    async def _look(self, order_id: str) -> None:
        """Read this order, or an earlier one."""
        seen = order_id if self._chance.random() < 0.7 else self._chance.choice(self._bought)
        if self._chance.random() < 0.4:
            await self._counters.send(Kind.READ, seen, "GET", f"/orders/{seen}")
        if self._chance.random() < 0.3:
            await self._counters.send(Kind.TIMELINE, seen, "GET", f"/orders/{seen}/events")

    async def _buy_without_a_key(self, user: str) -> None:
        await self._counters.send(Kind.ORDER, user, "POST", "/orders", self._shop.order(self._chance, user))

    async def _send_at_once(self, user: str) -> None:
        body = self._shop.order(self._chance, user)
        copies = [self._order(user, body, Kind.REPEAT) for _ in range(self._chance.randint(1, 3))]
        first, *_ = await asyncio.gather(self._order(user, body), *copies)
        await self._insist(first, lambda: self._order(user, body, Kind.REPEAT))

    async def _misuse_a_key(self, user: str) -> None:
        """Only once it is known that the key is taken, for otherwise it is a proper order."""
        if (await self._buy(user)).order_id is not None:
            await self._order(user, self._shop.order(self._chance, user) | {"total_amount": 77}, Kind.MISUSE)

    async def _cancel(self, order_id: str) -> Operation:
        body = {"order_id": order_id, "status": "cancelled"}
        return await self._counters.send(Kind.CANCEL, order_id, "PATCH", "/orders", body)

    async def _cancel_insistently(self, order_id: str) -> Operation:
        return await self._insist(await self._cancel(order_id), lambda: self._cancel(order_id))

    async def _regret(self, user: str) -> None:
        order_id = (await self._buy(user)).order_id
        if order_id is None:
            return
        answer = await self._cancel_insistently(order_id)
        if answer.is_ok and self._chance.random() < 0.3:
            await self._cancel(order_id)
        await self._look(order_id)

    async def _regret_at_once(self, user: str) -> None:
        """Cancel while the order is on its way, in most cases."""
        buying = asyncio.create_task(self._buy(user))
        await asyncio.sleep(self._chance.uniform(0, 0.06))
        found = await self._counters.send(Kind.FIND, user, "GET", f"/orders?user_id={user}")
        for order in found.reply.get("items", ()):
            await self._cancel_insistently(order["order_id"])
        await buying

    async def _ask_for_money_back(self, user: str) -> None:
        bought = await self._buy(user)
        if bought.order_id is None or not bought.is_ok:
            return
        for n in range(self._chance.randint(1, 3)):
            amount = max(1, bought.reply["total_amount"] * self._chance.randint(20, 60) // 100)
            body = {"order_id": bought.order_id, "amount": amount, "request_id": f"{user}-refund-{n}"}
            await self._insist(await self._refund(body), partial(self._refund, body))

    async def _refund(self, body: Mapping[str, Any]) -> Operation:
        return await self._counters.send(Kind.REFUND, body["request_id"], "POST", "/payments/refund", body)

    async def _take(self, user: str, items: list[dict[str, Any]]) -> Operation:
        body = {"items": items, "request_id": f"{user}-take"}
        return await self._counters.send(Kind.TAKE, f"{user}-take", "POST", "/inventory/decrease", body)

    async def _give_back(self, user: str) -> Operation:
        body = {"request_id": f"{user}-take"}
        return await self._counters.send(Kind.GIVE_BACK, f"{user}-take", "POST", "/inventory/rollback", body)

    async def _take_stock(self, user: str) -> None:
        items = self._shop.cart(self._chance)
        answer = await self._insist(await self._take(user, items), lambda: self._take(user, items))
        if not answer.is_refused and self._chance.random() < 0.5:
            await self._insist(await self._give_back(user), lambda: self._give_back(user))
        if self._chance.random() < 0.3:
            await self._take(user, items)

    async def _give_back_first(self, user: str) -> None:
        """A rollback that comes before, or together with, what it undoes."""
        items = self._shop.cart(self._chance)
        if self._chance.random() < 0.5:
            await self._insist(await self._give_back(user), lambda: self._give_back(user))
        else:
            await asyncio.gather(self._give_back(user), self._take(user, items))
        await self._insist(await self._take(user, items), lambda: self._take(user, items))

    async def _restock(self, user: str) -> None:
        sku, quantity = self._shop.sku(self._chance), self._chance.randint(5, 40)
        body = {"sku": sku, "quantity": quantity, "request_id": f"{user}-restock"}

        async def increase() -> Operation:
            return await self._counters.send(Kind.RESTOCK, f"{user}-restock", "POST", "/inventory/increase", body)

        await self._insist(await increase(), increase)
        if self._chance.random() < 0.3:
            await increase()


class Pace:
    """At most ``per_second`` visits begin each second, spread evenly; what is late is caught up with."""

    def __init__(self, per_second: float) -> None:
        self._every_s = 1 / per_second
        self._next = time.monotonic()

    async def turn(self) -> None:
        self._next += self._every_s
        await asyncio.sleep(max(0.0, self._next - self._every_s - time.monotonic()))


@asynccontextmanager
async def shopping(counters: Counters, shop: Shop, seed: int, buyers: int, per_second: float) -> AsyncIterator[None]:
    """``buyers`` at a time go on shopping during the block, ``per_second`` visits in all. At its end they finish what
    they are about; who hangs is sent home after a while, and his outcome stays unknown."""
    closed = asyncio.Event()
    pace = Pace(per_second)

    async def shop_on(buyer: Buyer) -> None:
        while not closed.is_set():
            await pace.turn()
            await buyer.visit()

    dice = [random.Random(f"{seed}:buyer:{n}") for n in range(buyers)]
    everyone = [
        asyncio.create_task(shop_on(Buyer(f"s{seed}-b{n}", counters, shop, chance))) for n, chance in enumerate(dice)
    ]
    try:
        yield
    finally:
        closed.set()
        done, hanging = await asyncio.wait(everyone, timeout=_CLOSES_WITHIN_S)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
    await asyncio.gather(*done)
