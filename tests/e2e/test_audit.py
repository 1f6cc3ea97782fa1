"""The audit finds each violation that is planted into the books, by its name."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pymysql
import pytest

from common.clients import AsyncInventoryClient, AsyncOrderClient
from common.database_url import parse_database_url
from tests.processes import Services
from vv import databases, migrate
from vv.audit import NAMES
from vv.databases import SERVICES, Databases
from vv.mariadb import Mariadb

CHARGE = "INSERT INTO payment_db.sandbox_gateway (gateway_key, kind, charge_key, amount, currency, approved) VALUES"

# Each breaks one invariant (and perhaps others that follow from it), on books with a completed, a failed and a
# cancelled order; @completed and so on are their ids.
PLANTED = {
    "stock_is_never_negative": [
        "ALTER TABLE inventory_db.inventory DROP CONSTRAINT stock_is_never_negative",
        "UPDATE inventory_db.inventory SET quantity = -1",
    ],
    "ledger_sums_up_to_stock": ["UPDATE inventory_db.inventory SET quantity = quantity + 1"],
    "stock_begins_with_its_creation": ["UPDATE inventory_db.stock_ledger SET kind = 'restock' WHERE kind = 'create'"],
    "completed_orders_hold_exactly_their_lines": [
        "UPDATE order_db.order_lines SET quantity = 2 WHERE order_id = @completed"
    ],
    "failed_and_cancelled_orders_hold_no_stock": ["DELETE FROM inventory_db.stock_ledger WHERE kind = 'rollback'"],
    "completed_orders_are_charged_the_right_amount": [
        "UPDATE order_db.orders SET total_amount = 101 WHERE order_id = @completed"
    ],
    "charged_orders_are_completed_or_refunded": [
        "UPDATE payment_db.payments SET status = 'captured', refunded_amount = 0 WHERE order_id = @cancelled"
    ],
    "order_timelines_are_paths_of_the_state_machine": [
        "DELETE FROM order_db.order_events WHERE order_id = @completed AND seq = 2"
    ],
    "unfinished_orders_have_a_lease": ["UPDATE order_db.orders SET lease_until = NOW() + INTERVAL 1 DAY"],
    "payment_timelines_are_paths_of_the_state_machine": [
        "UPDATE payment_db.payment_events SET status = 'voided' WHERE order_id = @completed AND seq = 2"
    ],
    "refunds_never_exceed_the_charge": ["UPDATE payment_db.refunds SET amount = amount + 1"],
    "nobody_is_charged_twice": [
        f"{CHARGE} (CONCAT(@completed, ':charge2'), 'charge', CONCAT(@completed, ':charge'), 100, 'USD', 1)"
    ],
    "the_gateway_charged_what_we_captured": ["UPDATE payment_db.sandbox_gateway SET amount = 99 WHERE kind = 'charge'"],
    "the_gateway_refunded_what_we_did": ["DELETE FROM payment_db.sandbox_gateway WHERE kind = 'refund'"],
    "gateway_entries_belong_to_a_payment": [f"{CHARGE} ('ghost:charge', 'charge', 'ghost:charge', 100, 'USD', 1)"],
}


@pytest.fixture
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Databases, dict[str, str]]]:
    """Databases of its own with three orders in them, and the ids of these."""
    folder = tmp_path_factory.mktemp("books")
    server = Mariadb(folder)
    with server.running():
        found = databases.embedded(server)
        for service in SERVICES:
            migrate.apply(service, found.migration_urls[service])
        server.grant(afresh=False)
        services = Services(found.service_urls, folder)
        try:
            order_ids = asyncio.run(_place_three_orders(services.start()))
        finally:
            services.stop()
        yield found, order_ids


async def _place_three_orders(services: Services) -> dict[str, str]:
    async with (
        AsyncInventoryClient(services.inventory.url) as inventory,
        AsyncOrderClient(services.order.url) as orders,
    ):
        await inventory.create(product_id="p", sku="A", quantity=10)
        completed = await orders.create(user_id="u", sku="A", total_amount=100)
        cancelled = await orders.create(user_id="u", sku="A", total_amount=100)
        await orders.cancel(cancelled.order_id)
    return {"completed": completed.order_id, "cancelled": cancelled.order_id}


def run_audit(found: Databases) -> tuple[int, set[str]]:
    """The exit code of ``vv audit``, and the names of the invariants that it says are violated."""
    environment = {f"{service.upper()}_DATABASE_URL": url for service, url in found.service_urls.items()}
    done = subprocess.run(
        [sys.executable, "-m", "vv", "audit", "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout, done.stderr
    return done.returncode, {violation["invariant"] for violation in json.loads(done.stdout)["violations"]}


def test_every_invariant_is_planted() -> None:
    """A new invariant comes with a violation that shows that it can be seen."""
    assert set(PLANTED) == set(NAMES)


def test_the_audit_sees_what_is_planted(books: tuple[Databases, dict[str, str]]) -> None:
    """Clean books exit 0; each planted violation is named and exits 1; taken back, the books are clean again."""
    found, order_ids = books
    assert run_audit(found) == (0, set())
    address = parse_database_url(found.migration_urls["order"])
    with pymysql.connect(unix_socket=address["unix_socket"], user="root", password=address["password"]) as connection:
        cursor = connection.cursor()
        cursor.execute("SET @completed = %s, @cancelled = %s", (order_ids["completed"], order_ids["cancelled"]))
        unseen = {}
        for name, statements in PLANTED.items():
            tables = _copy(cursor)
            for statement in statements:
                cursor.execute(statement)
            connection.commit()
            code, names = run_audit(found)
            if code != 1 or name not in names:
                unseen[name] = names
            _restore(cursor, tables)
            connection.commit()
        assert unseen == {}
    assert run_audit(found) == (0, set())


def _copy(cursor: pymysql.cursors.Cursor) -> list[str]:
    cursor.execute(
        "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables "
        "WHERE table_schema IN ('order_db', 'inventory_db', 'payment_db') AND table_name NOT LIKE '%yoyo%'"
    )
    tables = [table for (table,) in cursor.fetchall()]
    cursor.execute("CREATE DATABASE backup")
    for table in tables:
        cursor.execute(f"CREATE TABLE backup.{table.replace('.', '__')} AS SELECT * FROM {table}")
    return tables


def _restore(cursor: pymysql.cursors.Cursor, tables: list[str]) -> None:
    for table in tables:
        cursor.execute(f"DELETE FROM {table}")
        cursor.execute(f"INSERT INTO {table} SELECT * FROM backup.{table.replace('.', '__')}")
    cursor.execute("DROP DATABASE backup")
