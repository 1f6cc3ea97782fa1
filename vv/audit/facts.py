"""The facts that invariants judge: what several tables, and the gateway, say about one order, payment or SKU."""

from dataclasses import dataclass, field


@dataclass
class StockFacts:
    """A SKU and the totals of its ledger; ``lowest`` and ``unlike`` start anew at each correction."""

    sku: str
    quantity: int
    last_ledger_id: int
    ledger_sum: int = 0
    lowest: int = 0
    creations: int = 0
    first_kind: str | None = None
    unlike: int = 0
    """How many ledger rows have a quantity that is not the sum of the deltas up to them."""
    first_unlike: str | None = None

    @property
    def subject(self) -> str:
        return self.sku


@dataclass
class RequestFacts:
    """A request to take stock: what it took and what was given back, SKU -> quantity.

    ``order_id`` is the order that the request names, whether or not that exists.
    """

    request_id: str
    order_id: str | None
    order_exists: bool
    taken: dict[str, int] = field(default_factory=dict)
    given_back: dict[str, int] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        return self.request_id

    @property
    def held(self) -> dict[str, int]:
        held = {sku: self.taken.get(sku, 0) - self.given_back.get(sku, 0) for sku in {**self.taken, **self.given_back}}
        return {sku: quantity for sku, quantity in held.items() if quantity}


@dataclass(frozen=True)
class GatewayEntry:
    """A record at the gateway: an approved charge, a refund, or a cancelled key."""

    key: str
    kind: str
    charge_key: str
    amount: int
    currency: str

    @property
    def order_id(self) -> str:
        """The order that its charge key names."""
        return self.charge_key.split(":", 1)[0]


@dataclass
class GatewayFacts:
    entry: GatewayEntry
    has_payment: bool

    @property
    def subject(self) -> str:
        return self.entry.key


@dataclass
class OrphanFacts:
    """Rows of ``table`` that refer to an ``owner`` (an order, a payment, a SKU) which does not exist."""

    table: str
    owner: str

    @property
    def subject(self) -> str:
        return f"{self.table} {self.owner}"


@dataclass
class Lifecycle:
    """What orders and payments have in common. ``status`` is a plain str, as the database may hold an invalid one.

    ``lease_s`` is the number of seconds until the lease expires (negative: since it expired), None without a lease.
    """

    order_id: str
    status: str
    reason: str | None
    currency: str
    version: int
    last_seq: int
    lease_s: float | None
    is_overdue: bool
    events: list[tuple[int, str]] = field(default_factory=list, kw_only=True)

    @property
    def subject(self) -> str:
        return self.order_id


@dataclass
class PaymentFacts(Lifecycle):
    """``refunds`` maps the number of a refund to its amount; ``open_refunds`` are the numbers not confirmed yet."""

    amount: int
    refunded_amount: int
    user_id: str | None
    refunds: dict[int, int] = field(default_factory=dict)
    open_refunds: list[int] = field(default_factory=list)
    gateway: list[GatewayEntry] = field(default_factory=list)

    @property
    def charge_key(self) -> str:
        return f"{self.order_id}:charge"

    def refund_key(self, n: int) -> str:
        return f"{self.order_id}:refund:{n}"

    @property
    def gateway_charges(self) -> list[GatewayEntry]:
        return [entry for entry in self.gateway if entry.kind == "charge"]

    @property
    def gateway_refunds(self) -> list[GatewayEntry]:
        return [entry for entry in self.gateway if entry.kind == "refund"]

    @property
    def is_cancelled_at_the_gateway(self) -> bool:
        return any(entry.kind == "cancel" and entry.key == self.charge_key for entry in self.gateway)


@dataclass
class OrderFacts(Lifecycle):
    """``lines`` is what was ordered, ``taken`` what the order holds according to the ledger; both SKU -> quantity."""

    total_amount: int
    user_id: str
    lines: dict[str, int] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    payment: PaymentFacts | None = None
    twins: list[str] = field(default_factory=list)
    """Other orders of the same user with the same idempotency key."""
    has_problem: bool = False
    """Whether an event has the problem document with which a repeated request is answered."""

    @property
    def deduct_key(self) -> str:
        return f"{self.order_id}:deduct"
