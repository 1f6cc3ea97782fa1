"""The inventory service put together: what is built and wired, and the route table."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from aiohttp import web

from common import worker_metrics
from common.background import running
from common.contracts.access import Scope, Service, services, users
from common.contracts.base import Outcomes, Page
from common.contracts.inventory import (
    CreateStock,
    DecreaseStock,
    DecreaseStockBatch,
    IncreaseStock,
    LedgerEntry,
    LedgerQuery,
    OutOfStock,
    ProductQuery,
    RollbackStock,
    RollbackStockBatch,
    SkuExists,
    SkuNotFound,
    SkuQuery,
    StockChange,
    StockLevel,
    StockLevels,
    StockLimitExceeded,
    StockLocked,
    StockRequestRolledBack,
)
from common.database import Database
from common.errors import IdempotencyMismatch
from common.routes import BATCH_BODY_BYTES_MAX, Route
from common.security import Security
from common.telemetry import Metrics
from common.web import make_web_app
from inventory_service.drift import DriftWatch
from inventory_service.handlers import Decreases, Handlers, Increases, Rollbacks
from inventory_service.metrics import StockMetrics
from inventory_service.settings import Settings
from inventory_service.sku_queue import SkuQueue, waiting_slots
from inventory_service.stock import Stock

SCHEMA_REVISION = "0002_create_stock_ledger"


def routes(handlers: Handlers) -> list[Route]:
    return [
        Route(
            "POST", "/inventory/create", handlers.create, "Create a SKU with its first stock",
            access=users(Scope.STOCK_WRITE),
            body=CreateStock, replies={201: StockLevel}, errors=[SkuExists],
        ),
        Route(
            "GET", "/inventory/sku", handlers.get, "The stock of one SKU",
            access=users(Scope.STOCK_READ),
            query=SkuQuery, replies={200: StockLevel}, errors=[SkuNotFound],
        ),
        Route(
            "GET", "/inventories", handlers.list_product, "The stock of each SKU of a product",
            access=users(Scope.STOCK_READ),
            query=ProductQuery, replies={200: StockLevels},
        ),
        Route(
            "POST", "/inventory/decrease", handlers.decrease, "Take stock, all lines or none",
            access=services(Service.ORDER),
            body=DecreaseStock, replies={200: StockChange},
            errors=[OutOfStock, SkuNotFound, StockLocked, StockRequestRolledBack, IdempotencyMismatch],
        ),
        Route(
            "POST", "/inventory/decrease/batch", handlers.decrease_batch, "Several decreases at once",
            access=services(Service.ORDER),
            body=DecreaseStockBatch, replies={200: Outcomes[StockChange]}, body_bytes_max=BATCH_BODY_BYTES_MAX,
        ),
        Route(
            "POST", "/inventory/increase", handlers.increase, "Add stock",
            access=users(Scope.STOCK_WRITE),
            body=IncreaseStock, replies={200: StockChange},
            errors=[SkuNotFound, StockLimitExceeded, StockLocked, IdempotencyMismatch],
        ),
        Route(
            "POST", "/inventory/rollback", handlers.rollback, "Undo a decrease, or keep it from ever happening",
            access=services(Service.ORDER),
            body=RollbackStock, replies={200: StockChange}, errors=[StockLocked],
        ),
        Route(
            "POST", "/inventory/rollback/batch", handlers.rollback_batch, "Several rollbacks at once",
            access=services(Service.ORDER),
            body=RollbackStockBatch, replies={200: Outcomes[StockChange]}, body_bytes_max=BATCH_BODY_BYTES_MAX,
        ),
        Route(
            "GET", "/inventory/ledger", handlers.ledger, "Every change of a SKU's stock, newest first",
            # It names the orders of everybody, so it is not for buyers, who may read what is in stock.
            access=users(Scope.STOCK_WRITE),
            query=LedgerQuery, replies={200: Page[LedgerEntry]}, errors=[SkuNotFound],
        ),
    ]  # fmt: skip


def make_app(settings: Settings) -> web.Application:
    metrics = Metrics("inventory", settings.workers)
    security = Security.from_settings(settings, metrics)
    database = Database.from_settings(settings, metrics, security.client_tls)
    stock = Stock(database)
    stock_metrics = StockMetrics(metrics.registry)
    drift = DriftWatch(database, settings.drift_check_skus, stock_metrics)
    slots = waiting_slots(settings)
    decreases: Decreases = SkuQueue("decreases", stock.decrease, slots, settings, metrics, stock_metrics)
    increases: Increases = SkuQueue("increases", stock.increase, slots, settings, metrics, stock_metrics)
    rollbacks: Rollbacks = SkuQueue("rollbacks", stock.rollback, slots, settings, metrics, stock_metrics)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        watches = settings.drift_check_interval_s and worker_metrics.is_first()
        async with (
            database,
            running(drift.run(settings.drift_check_interval_s)) if watches else nullcontext(),
        ):
            yield
            for queue in (decreases, increases, rollbacks):
                await queue.drain()

    return make_web_app(
        title="VV-Ecommerce inventory",
        routes=routes(Handlers(stock, decreases, increases, rollbacks)),
        metrics=metrics,
        why_not_ready=database.readiness(SCHEMA_REVISION),
        lifespan=lifespan,
        requests_in_flight_max=settings.requests_in_flight_max,
        security=security,
    )
