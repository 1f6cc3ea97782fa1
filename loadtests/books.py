"""What the buyers know: what they asked for, what they were told, and what it adds up to."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replies import Reply

_RECENT_MAX = 100


@dataclass(eq=False)
class Purchase:
    """One order as its buyer sees it.

    ``key`` is its Idempotency-Key, ``items`` maps SKUs to quantities, ``answer`` is the first definite reply.
    """

    key: str
    user_id: str
    items: Mapping[str, int]
    total_amount: int
    payment_method: str = "tok_ok"
    order_id: str = ""
    answer: Reply | None = None
    is_cancelled: bool = False

    @property
    def body(self) -> dict[str, Any]:
        """What ``POST /orders`` is sent."""
        lines = [{"sku": sku, "quantity": quantity} for sku, quantity in self.items.items()]
        what = {"items": lines} if len(lines) > 1 else lines[0]
        return {
            "user_id": self.user_id,
            **what,
            "total_amount": self.total_amount,
            "payment_method": self.payment_method,
        }


@dataclass
class Books:
    """The units of each SKU: what was put in, what completed orders have taken, and what was given back.

    ``open`` are purchases without a definite answer yet, ``accepted`` those answered 202, ``cancelling`` those whose
    cancellation is not confirmed yet. Units count as returned when their cancellation is sent, as they may be sold
    again before its reply is here.
    """

    put_in: dict[str, int] = field(default_factory=dict)
    sold: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    open: set[Purchase] = field(default_factory=set)
    accepted: set[Purchase] = field(default_factory=set)
    cancelling: set[Purchase] = field(default_factory=set)
    recent: deque[Purchase] = field(default_factory=lambda: deque(maxlen=_RECENT_MAX))
    _order_ids: set[str] = field(default_factory=set)

    def held(self, sku: str) -> int:
        """Units in completed orders. Never too many, and too few only while a cancellation is under way."""
        return self.sold[sku] - self.returned[sku]

    @property
    def unfinished(self) -> list[Purchase]:
        return [*self.open, *self.accepted, *self.cancelling]

    def has_ended(self, purchase: Purchase) -> bool:
        return not any(purchase in waiting for waiting in (self.open, self.accepted, self.cancelling))

    def send(self, purchase: Purchase) -> None:
        """A purchase is about to be sent; until it is answered its outcome is unknown."""
        self.open.add(purchase)

    def accept(self, purchase: Purchase, order_id: str) -> None:
        """The purchase was answered 202."""
        purchase.order_id = order_id
        self.open.discard(purchase)
        self.accepted.add(purchase)

    def complete(self, purchase: Purchase, order_id: str) -> bool:
        """The order is completed. False if its id was given to another purchase before."""
        is_new = order_id not in self._order_ids
        purchase.order_id = order_id
        self._order_ids.add(order_id)
        self._close(purchase, "completed")
        self.sold.update(purchase.items)
        self.recent.append(purchase)
        return is_new

    def refuse(self, purchase: Purchase, why: str) -> None:
        """The purchase was refused, or its order failed."""
        self._close(purchase, why)

    def send_cancel(self, purchase: Purchase) -> None:
        """The cancellation is about to be sent; from now on the units may be sold again."""
        purchase.is_cancelled = True
        self.cancelling.add(purchase)
        self.returned.update(purchase.items)

    def cancel(self, purchase: Purchase) -> None:
        """The cancellation is carried out."""
        self.cancelling.discard(purchase)
        self.outcomes["cancelled"] += 1

    def _close(self, purchase: Purchase, outcome: str) -> None:
        self.open.discard(purchase)
        self.accepted.discard(purchase)
        self.outcomes[outcome] += 1
