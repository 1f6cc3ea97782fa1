"""The payment service put together: what is built and wired, and the route table."""

import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from aiohttp import web

from common.background import running
from common.backlog import Backlog
from common.batching import Batcher
from common.contracts.access import Scope, Service, services, users
from common.contracts.base import Outcomes
from common.contracts.payments import (
    CancelPayment,
    CreatePayment,
    CreatePaymentBatch,
    NothingCaptured,
    Payment,
    PaymentCancelled,
    PaymentDeclined,
    PaymentNotFound,
    PaymentQuery,
    PaymentUnresolved,
    RefundExceedsCharge,
    RefundPayment,
)
from common.crash_points import crash_points
from common.database import Database
from common.errors import IdempotencyMismatch
from common.routes import BATCH_BODY_BYTES_MAX, Route
from common.security import Security
from common.settings import refuse_setting
from common.telemetry import Metrics
from common.web import make_web_app
from payment_service.charges import Batches, Charges
from payment_service.domain import OUTSTANDING
from payment_service.gateway import Gateway
from payment_service.gateway_http import HttpGateway
from payment_service.handlers import Handlers
from payment_service.metrics import MeasuredGateway
from payment_service.payments import Payments
from payment_service.recovery import make_recovery
from payment_service.sandbox import SandboxGateway
from payment_service.settings import Settings

SCHEMA_REVISION = "0006_add_user_to_payments"


def routes(handlers: Handlers) -> list[Route]:
    return [
        Route(
            "POST", "/payments", handlers.create, "Charge an order, once",
            access=services(Service.ORDER),
            body=CreatePayment, replies={201: Payment, 202: Payment},
            errors=[PaymentDeclined, PaymentCancelled, IdempotencyMismatch],
        ),
        Route(
            "POST", "/payments/batch", handlers.create_batch, "Several charges at once",
            access=services(Service.ORDER),
            body=CreatePaymentBatch, replies={200: Outcomes[Payment]}, body_bytes_max=BATCH_BODY_BYTES_MAX,
        ),
        Route(
            "GET", "/payments", handlers.get, "The payment of an order",
            access=users(Scope.PAYMENTS_READ),
            query=PaymentQuery, replies={200: Payment}, errors=[PaymentNotFound],
        ),
        Route(
            "POST", "/payments/refund", handlers.refund, "Give money back, never more than was captured",
            access=users(Scope.PAYMENTS_REFUND),
            body=RefundPayment, replies={200: Payment, 202: Payment},
            errors=[PaymentNotFound, PaymentUnresolved, NothingCaptured, RefundExceedsCharge, IdempotencyMismatch],
        ),
        Route(
            "POST", "/payments/cancel", handlers.cancel, "See to it that an order is not charged",
            access=services(Service.ORDER),
            body=CancelPayment, replies={200: Payment, 202: Payment},
        ),
    ]  # fmt: skip


def make_gateway(database: Database, settings: Settings, metrics: Metrics, security: Security) -> Gateway:
    if settings.gateway_url is None:
        return SandboxGateway(database, settings, metrics)
    return HttpGateway(
        settings.gateway_url,
        timeout_s=settings.gateway_timeout_s,
        connections_max=settings.gateway_connections_max,
        token=settings.gateway_token,
        tls=gateway_tls(settings, security),
        nameserver=settings.nameserver,
    )


def gateway_tls(settings: Settings, security: Security) -> ssl.SSLContext | None:
    if settings.gateway_ca is None:
        return security.client_tls
    try:
        return security.client_tls_believing(settings.gateway_ca)
    except OSError as error:
        refuse_setting(settings, "gateway_ca", f"cannot be used: {error.strerror or error}")


def make_app(settings: Settings) -> web.Application:
    metrics = Metrics("payment", settings.workers)
    security = Security.from_settings(settings, metrics)
    database = Database.from_settings(settings, metrics, security.client_tls)
    gateway = MeasuredGateway(make_gateway(database, settings, metrics, security), metrics.registry)
    backlog = Backlog("payments", OUTSTANDING, metrics.registry)
    payments = Payments(database, settings.lease_s)
    batches = Batches(
        open=Batcher("open", payments.open, settings, metrics),
        move=Batcher("move", payments.move, settings, metrics),
        poll=Batcher("poll", payments.poll, settings, metrics),
    )
    charges = Charges(payments, batches, gateway, settings, crash_points(settings.crash_point))
    recovery = make_recovery(database, charges, metrics, lease_s=settings.lease_s, retry_most_s=settings.retry_most_s)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with (
            database,
            # Closed after recovery has ended, which calls it to the last.
            aclosing(gateway),
            running(recovery.run(settings.recovery_interval_s)),
            running(backlog.watch(payments.count_unfinished)),
        ):
            yield
            await charges.drain()
            await batches.drain()

    return make_web_app(
        title="VV-Ecommerce payment",
        routes=routes(Handlers(charges, payments)),
        metrics=metrics,
        why_not_ready=database.readiness(SCHEMA_REVISION),
        lifespan=lifespan,
        requests_in_flight_max=settings.requests_in_flight_max,
        security=security,
    )
