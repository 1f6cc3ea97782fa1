"""What there is to buy, and what buyers are like: the profiles of a run, as data."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SCRIPTS = {
    "buy": 50.0,
    "buy_without_a_key": 5.0,
    "send_at_once": 8.0,
    "regret": 8.0,
    "regret_at_once": 10.0,
    "ask_for_money_back": 5.0,
    "misuse_a_key": 2.0,
    "take_stock": 6.0,
    "give_back_first": 2.0,
    "restock": 4.0,
}
_CARDS = {"tok_ok": 70.0, "tok_declined": 10.0, "tok_timeout": 8.0, "tok_slow": 6.0, "tok_error": 2.0}


@dataclass(frozen=True)
class Profile:
    """How buyers behave; the numbers of ``scripts`` and ``cards`` are weights.

    :param stock: units that each SKU begins with
    :param hot: the share of lines that are of the first SKU
    :param carts: the share of orders that are carts of two to four SKUs
    :param unknown_skus: the share of orders of a SKU that does not exist
    """

    skus: int = 12
    stock: int = 500
    hot: float = 0.35
    carts: float = 0.35
    unknown_skus: float = 0.01
    scripts: Mapping[str, float] = field(default_factory=lambda: _SCRIPTS)
    cards: Mapping[str, float] = field(default_factory=lambda: _CARDS)


PROFILES = {
    "usual": Profile(),
    # Everybody wants the last units of one SKU.
    "rush": Profile(
        skus=2, stock=40, hot=0.9, carts=0.1, scripts={"buy": 60, "send_at_once": 10, "take_stock": 20, "restock": 10}
    ),
    # Whole carts of few SKUs, in any order, also past the order service: what deadlocks are made of.
    "carts": Profile(
        skus=4,
        stock=5_000,
        hot=0.0,
        carts=1.0,
        scripts={"buy": 30, "take_stock": 60, "regret": 10},
        cards={"tok_ok": 1},
    ),
    # Money: cards of all kinds, cancellations and refunds.
    "money": Profile(
        stock=5_000,
        scripts={"buy": 40, "regret": 15, "regret_at_once": 25, "ask_for_money_back": 20},
        cards={"tok_ok": 40, "tok_timeout": 30, "tok_slow": 20, "tok_error": 5, "tok_declined": 5},
    ),
    # Everything is sent more than once.
    "repeats": Profile(stock=5_000, scripts={"send_at_once": 60, "misuse_a_key": 10, "give_back_first": 30}),
    # Orders that are decided while they are being cancelled.
    "regrets": Profile(stock=5_000, scripts={"regret_at_once": 80, "regret": 20}, cards={"tok_ok": 50, "tok_slow": 50}),
}


class Shop:
    """The SKUs of a run, and the wishes that buyers come with."""

    def __init__(self, seed: int, profile: Profile) -> None:
        self.profile = profile
        self.stock = {f"S{seed}-{n}": profile.stock for n in range(profile.skus)}
        self._skus = list(self.stock)

    def order(self, chance: random.Random, user_id: str) -> dict[str, Any]:
        """The body of an order."""
        wish: dict[str, Any] = {
            "user_id": user_id,
            "total_amount": chance.randint(100, 99_999),
            "currency": chance.choice(["USD", "EUR"]),
            "payment_method": _weighted(chance, self.profile.cards),
        }
        if chance.random() < self.profile.unknown_skus:
            return wish | {"sku": "NO-SUCH-SKU", "quantity": 1}
        if chance.random() < self.profile.carts:
            return wish | {"items": self.cart(chance)}
        return wish | {"sku": self.sku(chance), "quantity": chance.randint(1, 3)}

    def cart(self, chance: random.Random) -> list[dict[str, Any]]:
        """Two to four SKUs, in any order."""
        skus = chance.sample(self._skus, min(len(self._skus), chance.randint(2, 4)))
        return [{"sku": sku, "quantity": chance.randint(1, 2)} for sku in skus]

    def sku(self, chance: random.Random) -> str:
        return self._skus[0] if chance.random() < self.profile.hot else chance.choice(self._skus)

    def script(self, chance: random.Random) -> str:
        """What a buyer does next."""
        return _weighted(chance, self.profile.scripts)


def _weighted(chance: random.Random, weights: Mapping[str, float]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]
