"""The use cases of the three services on databases of their own, and batches of what one may want of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from uuid_utils import uuid7

from common.batching import Batcher
from common.contracts.inventory import CreateStock, DecreaseStock, StockChange, StockLevel
from common.contracts.orders import CreateOrder
from common.contracts.payments import CreatePayment
from common.database import Database
from common.settings import ServiceSettings
from common.telemetry import Metrics
from inventory_service.stock import Stock
from order_service import domain as order_domain
from order_service.domain import NewOrder, OrderRow
from order_service.metrics import OrderMetrics
from order_service.orders import Orders
from payment_service import domain as payment_domain
from payment_service.domain import NewPayment, PaymentRow
from payment_service.payments import Payments
from payment_service.sandbox import SandboxGateway
from payment_service.settings import Settings as PaymentSettings

URL = SecretStr("mysql://u:p@h/d")


@dataclass
class Shop:
    """The use cases of the three services on their databases, without the services around them."""

    databases: dict[str, Database]
    metrics: Metrics

    def __post_init__(self) -> None:
        self.stock = Stock(self.databases["inventory"])
        self.orders = Orders(self.databases["order"], 60, OrderMetrics(CollectorRegistry()))
        self.payments = Payments(self.databases["payment"], 60)
        settings = PaymentSettings(database_url=URL, port=1)
        self.sandbox = SandboxGateway(self.databases["payment"], settings, Metrics("test"))

    async def new_skus(self, n: int, quantity: int = 1_000) -> list[str]:
        """In SKU order."""
        names = sorted(f"SKU-{uuid4().hex}" for _ in range(n))
        levels = await self.stock.create([CreateStock(product_id="p", sku=sku, quantity=quantity) for sku in names])
        assert all(isinstance(level, StockLevel) for level in levels)
        return names

    async def new_orders(self, n: int) -> list[OrderRow]:
        return await self.orders.accept([new_order() for _ in range(n)])

    async def new_payments(self, n: int) -> list[PaymentRow]:
        return await self.payments.open([new_payment() for _ in range(n)])


@contextlib.asynccontextmanager
async def shop_at(urls: Mapping[str, str], kind: type[Database] = Database) -> AsyncIterator[Shop]:
    """One connection a database, so that the status of a session counts everything that the shop does."""
    metrics = Metrics("test")
    limits = {"pool_size_max": 1, "pool_wait_s": 10.0, "lock_wait_s": 1, "transaction_timeout_s": 30.0}
    async with contextlib.AsyncExitStack() as stack:
        made = {name: kind(url, metrics, **limits) for name, url in urls.items()}  # type: ignore[arg-type]
        yield Shop({name: await stack.enter_async_context(database) for name, database in made.items()}, metrics)


def new_order(key: str | None = None, lines: int = 1, **fields: Any) -> NewOrder:
    items = [{"sku": f"S{n}", "quantity": 1} for n in range(lines)]
    wanted = CreateOrder.model_validate({"user_id": "ada", "items": items, "total_amount": 5})
    return NewOrder.of(str(uuid7()), fields.pop("user_id", "ada"), wanted.model_copy(update=fields), key)


def new_payment(**fields: Any) -> NewPayment:
    wanted = CreatePayment(order_id=str(uuid4()), amount=5)
    return NewPayment(str(uuid7()), wanted.model_copy(update=fields))


def decrease(sku: str, quantity: int = 1, **fields: Any) -> DecreaseStock:
    wanted = DecreaseStock(sku=sku, quantity=quantity, request_id=f"{uuid4()}")
    return wanted.model_copy(update=fields)


def batcher(run: Callable[[Any], Awaitable[Any]], **settings: Any) -> Batcher[Any, Any]:
    return Batcher("test", run, ServiceSettings(database_url=URL, port=1, **settings), Metrics("test"))


def key_of(thing: Any) -> str:
    """What tells an item, and the outcome that belongs to it."""
    if isinstance(thing, order_domain.Move):
        return thing.order.order_id
    if isinstance(thing, payment_domain.Move):
        return thing.payment.order_id
    if isinstance(thing, DecreaseStock | StockChange):
        return str(thing.request_id)
    return str(getattr(thing, "order_id", thing))


async def together(shared: Batcher[Any, Any], items: Sequence[Any]) -> list[Any]:
    """The outcome of each item, all submitted at once."""
    return await asyncio.gather(*(shared.submit(item) for item in items), return_exceptions=True)


def runs_again(shop: Shop, errno: int) -> float:
    return shop.metrics.registry.get_sample_value("vv_db_transaction_retries_total", {"errno": str(errno)}) or 0
