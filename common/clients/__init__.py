"""The client library, for services and for scripts.

    from common.clients import OrderClient

    with OrderClient() as orders:
        print(orders.create(user_id="ada", sku="book", total_amount=1999).status)

Every class comes twice: ``AsyncOrderClient`` for code with an event loop and ``OrderClient`` for code without, with
the same methods. Results are contracts (``Order``, ``Payment``, …), errors the classes below.
"""

from common.clients.breaker import CircuitBreaker
from common.clients.credentials import ClientCredentials, Credentials
from common.clients.inventory import AsyncInventoryClient, InventoryClient
from common.clients.observer import Observer
from common.clients.orders import AsyncOrderClient, OrderClient
from common.clients.payments import AsyncPaymentClient, PaymentClient
from common.clients.retry import RetryPolicy
from common.contracts.inventory import (
    DecreaseStock,
    LedgerEntry,
    LedgerKind,
    OutOfStock,
    RollbackStock,
    SkuExists,
    SkuNotFound,
    StockChange,
    StockLevel,
    StockLimitExceeded,
    StockLine,
    StockLocked,
    StockMovement,
    StockRequestRolledBack,
)
from common.contracts.orders import (
    InvalidTransition,
    Order,
    OrderCancelled,
    OrderEvent,
    OrderLine,
    OrderNotFound,
    OrderStatus,
    OrderTimeline,
)
from common.contracts.payments import (
    CreatePayment,
    NothingCaptured,
    Payment,
    PaymentCancelled,
    PaymentDeclined,
    PaymentNotFound,
    PaymentStatus,
    PaymentUnresolved,
    RefundExceedsCharge,
)
from common.errors import (
    CircuitOpen,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    IdempotencyMismatch,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestInProgress,
    ServiceError,
    ServiceUnavailable,
    TooManyRequests,
    Unauthenticated,
)

__all__ = [
    "AsyncInventoryClient",
    "AsyncOrderClient",
    "AsyncPaymentClient",
    "CircuitBreaker",
    "CircuitOpen",
    "ClientCredentials",
    "Conflict",
    "CreatePayment",
    "Credentials",
    "DeadlineExceeded",
    "DecreaseStock",
    "Forbidden",
    "IdempotencyMismatch",
    "InternalError",
    "InvalidRequest",
    "InvalidTransition",
    "InventoryClient",
    "LedgerEntry",
    "LedgerKind",
    "NotFound",
    "NothingCaptured",
    "Observer",
    "Order",
    "OrderCancelled",
    "OrderClient",
    "OrderEvent",
    "OrderLine",
    "OrderNotFound",
    "OrderStatus",
    "OrderTimeline",
    "OutOfStock",
    "Overloaded",
    "Payment",
    "PaymentCancelled",
    "PaymentClient",
    "PaymentDeclined",
    "PaymentNotFound",
    "PaymentStatus",
    "PaymentUnresolved",
    "RefundExceedsCharge",
    "RequestInProgress",
    "RetryPolicy",
    "RollbackStock",
    "ServiceError",
    "ServiceUnavailable",
    "SkuExists",
    "SkuNotFound",
    "StockChange",
    "StockLevel",
    "StockLimitExceeded",
    "StockLine",
    "StockLocked",
    "StockMovement",
    "StockRequestRolledBack",
    "TooManyRequests",
    "Unauthenticated",
]
