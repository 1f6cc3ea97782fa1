"""Forged books: three databases beside the real ones, whole at first, and then with one thing wrong with them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Self
from uuid import uuid4

import pymysql

from common.database_url import parse_database_url
from vv import accounts

LEASE = "NOW(6) + INTERVAL 1 MINUTE"
BOUGHT = ("created", "inventory_reserved", "paid", "completed")


def connect(url: str) -> "pymysql.Connection[Any]":
    address = parse_database_url(url)
    return pymysql.connect(database=address.pop("db"), autocommit=True, **address)


class Forger:
    """Every order is of one unit of a SKU of its own, which had ten, and costs 700."""

    def __init__(self, connections: Mapping[str, "pymysql.Connection[Any]"]) -> None:
        self._connections = connections
        self.afterwards = ExitStack()

    @classmethod
    @contextmanager
    def at(cls, urls: Mapping[str, str]) -> Iterator[Self]:
        """Starts with one order that is as it should be."""
        with ExitStack() as stack:
            forger = cls({service: stack.enter_context(closing(connect(url))) for service, url in urls.items()})
            forger.wipe()
            forger.completed()
            yield forger
            forger.wipe()
            forger.afterwards.close()

    def execute(self, service: str, sql: str, *args: object) -> list[Any]:
        with self._connections[service].cursor() as cursor:
            cursor.execute(sql, args)
            return list(cursor.fetchall())

    def wipe(self) -> None:
        for service, grants in accounts.GRANTS.items():
            for table in grants.keys() - {"_yoyo_migration"}:
                self.execute(service, f"DELETE FROM {table}")

    def stock(self, sku: str, quantity: int, *, left: int) -> None:
        self.execute("inventory", "INSERT INTO inventory (sku, product_id, quantity) VALUES (%s, 'p', %s)", sku, left)
        self.ledger(sku, "create", sku, quantity, quantity)

    def ledger(
        self, request_id: str, kind: str, sku: str, delta: int, quantity: int, order_id: str | None = None
    ) -> None:
        self.execute(
            "inventory",
            "INSERT INTO stock_ledger (request_id, kind, line, sku, delta, quantity, order_id) "
            "VALUES (%s, %s, 1, %s, %s, %s, %s)",
            *(request_id, kind, sku, delta, quantity, order_id),
        )

    def take(self, request_id: str, sku: str, order_id: str | None, *, left: int, kind: str = "deduct") -> None:
        """Take one unit more, or give one back, in the ledger and in the stock."""
        self.ledger(request_id, kind, sku, -1 if kind == "deduct" else 1, left, order_id)
        self.execute("inventory", "UPDATE inventory SET quantity = %s WHERE sku = %s", left, sku)

    def order(self, order_id: str, sku: str, *path: str) -> None:
        final = path[-1] in ("completed", "failed", "cancelled")
        self.execute(
            "order",
            "INSERT INTO orders (order_id, user_id, status, total_amount, currency, payment_method, fingerprint, "
            f"last_seq, lease_until) VALUES (%s, 'u', %s, 700, 'USD', 'tok_ok', '', %s, {'NULL' if final else LEASE})",
            *(order_id, path[-1], len(path)),
        )
        self.execute("order", "INSERT INTO order_lines VALUES (%s, %s, 1)", order_id, sku)
        for seq, status in enumerate(path, start=1):
            self.execute(
                "order",
                "INSERT INTO order_events (order_id, seq, status, problem) VALUES (%s, %s, %s, %s)",
                *(order_id, seq, status, "{}" if status == "failed" else None),
            )

    def payment(self, order_id: str, *path: str, refunded: int = 0) -> None:
        settled = path[-1] not in ("pending", "cancelling", "refunding")
        self.execute(
            "payment",
            "INSERT INTO payments (order_id, payment_id, user_id, amount, currency, payment_method, status, "
            "refunded_amount, last_seq, lease_until) "
            f"VALUES (%s, 'p', 'u', 700, 'USD', 'tok_ok', %s, %s, %s, {'NULL' if settled else LEASE})",
            *(order_id, path[-1], refunded, len(path)),
        )
        for seq, status in enumerate(path, start=1):
            self.execute(
                "payment",
                "INSERT INTO payment_events (order_id, seq, status, amount) VALUES (%s, %s, %s, 700)",
                *(order_id, seq, status),
            )

    def gateway(self, order_id: str, kind: str, key: str, amount: int) -> None:
        self.execute(
            "payment",
            "INSERT INTO sandbox_gateway (gateway_key, kind, charge_key, amount, currency, approved) "
            "VALUES (%s, %s, %s, %s, 'USD', TRUE)",
            *(f"{order_id}:{key}", kind, f"{order_id}:charge", amount),
        )

    def refund(self, order_id: str, amount: int, *, done: bool = True) -> None:
        self.execute(
            "payment", "INSERT INTO refunds (order_id, n, amount, done) VALUES (%s, 1, %s, %s)", order_id, amount, done
        )

    def captured(self) -> str:
        """A payment that somebody made for an order of his own; that is nothing wrong."""
        order_id = str(uuid4())
        self.payment(order_id, "pending", "captured")
        self.gateway(order_id, "charge", "charge", 700)
        return order_id

    def completed(self) -> tuple[str, str]:
        """An order that is all in order; its id and the SKU."""
        order_id, sku = self.taken(*BOUGHT)
        self.payment(order_id, "pending", "captured")
        self.gateway(order_id, "charge", "charge", 700)
        return order_id, sku

    def failed(self) -> tuple[str, str]:
        """An order that failed and has given its stock back; it has no payment."""
        order_id, sku = self.taken("created", "inventory_reserved", "failing", "failed")
        self.take(f"{order_id}:deduct", sku, order_id, left=10, kind="rollback")
        return order_id, sku

    def taken(self, *path: str) -> tuple[str, str]:
        """An order that has its stock."""
        order_id, sku = str(uuid4()), uuid4().hex
        self.stock(sku, 10, left=9)
        self.order(order_id, sku, *path)
        self.ledger(f"{order_id}:deduct", "deduct", sku, -1, 9, order_id)
        return order_id, sku
