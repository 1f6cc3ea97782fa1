"""The order service put together: what is built and wired, and the route table."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from common.background import running
from common.backlog import Backlog
from common.batching import Batcher
from common.clients import AsyncInventoryClient, AsyncPaymentClient, ClientCredentials
from common.contracts.access import Scope, users
from common.contracts.inventory import OutOfStock, SkuNotFound
from common.contracts.orders import (
    FINAL,
    CreateOrder,
    CreateOrderHeaders,
    InvalidTransition,
    ListOrdersQuery,
    Order,
    OrderCancelled,
    OrderNotFound,
    OrderOrPage,
    OrderQuery,
    OrderStatus,
    OrderTimeline,
    PatchOrder,
    PlacedOrderHeaders,
)
from common.contracts.payments import PaymentCancelled, PaymentDeclined
from common.crash_points import crash_points
from common.database import Database
from common.errors import IdempotencyMismatch, RequestInProgress
from common.routes import Route
from common.security import Security
from common.telemetry import Metrics
from common.web import make_web_app
from order_service.checkout import Checkout
from order_service.handlers import Handlers
from order_service.handoff import Handoff
from order_service.metrics import CallMetrics, OrderMetrics
from order_service.orders import Orders
from order_service.purchase import Purchases
from order_service.recovery import make_recovery
from order_service.settings import Settings

SCHEMA_REVISION = "0003_create_order_events"


def routes(handlers: Handlers) -> list[Route]:
    return [
        Route(
            "POST", "/orders", handlers.create, "Place an order",
            access=users(Scope.ORDERS_WRITE),
            body=CreateOrder, headers=CreateOrderHeaders,
            replies={201: Order, 202: Order}, reply_headers=PlacedOrderHeaders,
            errors=[
                OutOfStock, PaymentDeclined, SkuNotFound, IdempotencyMismatch, RequestInProgress,
                OrderCancelled, PaymentCancelled,
            ],
        ),
        Route(
            "GET", "/orders", handlers.get_or_list, "One order by its id, or orders, newest first",
            access=users(Scope.ORDERS_READ),
            query=ListOrdersQuery, replies={200: OrderOrPage}, errors=[OrderNotFound],
        ),
        Route(
            "PATCH", "/orders", handlers.patch, "Cancel an order: its money and stock go back",
            access=users(Scope.ORDERS_WRITE),
            body=PatchOrder, replies={200: Order, 202: Order}, errors=[OrderNotFound, InvalidTransition],
        ),
        Route(
            "GET", "/orders/{order_id}", handlers.get, "One order",
            access=users(Scope.ORDERS_READ),
            query=OrderQuery, replies={200: Order}, errors=[OrderNotFound],
        ),
        Route(
            "GET", "/orders/{order_id}/events", handlers.events, "The timeline of an order",
            access=users(Scope.ORDERS_READ),
            query=OrderQuery, replies={200: OrderTimeline}, errors=[OrderNotFound],
        ),
    ]  # fmt: skip


def own_tokens(settings: Settings) -> ClientCredentials | None:
    """The tokens with which this service calls the others, if it is to have any: a certificate is enough."""
    if (
        settings.tls_ca is not None
        or settings.auth_issuer is None
        or settings.auth_client_id is None
        or settings.auth_client_secret is None
    ):
        return None
    secret = settings.auth_client_secret.get_secret_value()
    return ClientCredentials(settings.auth_issuer, settings.auth_client_id, secret)


def make_app(settings: Settings) -> web.Application:
    metrics = Metrics("order", settings.workers)
    order_metrics = OrderMetrics(metrics.registry)
    call_metrics = CallMetrics(metrics.registry)
    backlog = Backlog("orders", set(OrderStatus) - FINAL, metrics.registry)
    security = Security.from_settings(settings, metrics)
    database = Database.from_settings(settings, metrics, security.client_tls)
    tokens = own_tokens(settings)
    inventory = AsyncInventoryClient(
        settings.inventory_url,
        timeout_s=settings.call_timeout_s,
        token=tokens,
        tls=security.client_tls,
        nameserver=settings.nameserver,
        observer=call_metrics.of("inventory"),
    )
    payments = AsyncPaymentClient(
        settings.payment_url,
        timeout_s=settings.call_timeout_s,
        token=tokens,
        tls=security.client_tls,
        nameserver=settings.nameserver,
        observer=call_metrics.of("payment"),
    )
    orders = Orders(database, settings.lease_s, order_metrics)
    handoff = Handoff(orders, settings)
    reached = crash_points(settings.crash_point)
    purchases = Purchases(orders, inventory, payments, handoff, settings, metrics, order_metrics, reached)
    moves = Batcher("move", orders.move, settings, metrics)
    checkout = Checkout(orders, purchases, moves, inventory, payments, handoff, settings, order_metrics, reached)
    recovery = make_recovery(database, checkout, metrics, lease_s=settings.lease_s, retry_most_s=settings.retry_most_s)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with (
            database,
            inventory,
            payments,
            running(recovery.run(settings.recovery_interval_s)),
            running(backlog.watch(orders.count_unfinished)),
        ):
            yield
            await checkout.drain()

    return make_web_app(
        title="VV-Ecommerce order",
        routes=routes(Handlers(checkout, orders)),
        metrics=metrics,
        why_not_ready=database.readiness(SCHEMA_REVISION),
        lifespan=lifespan,
        requests_in_flight_max=settings.requests_in_flight_max,
        security=security,
    )
