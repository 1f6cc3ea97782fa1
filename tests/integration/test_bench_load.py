"""What the benchmark puts on a server and into its tables: wrk against the empty handler, and orders made by SQL."""

import asyncio
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pymysql
import pytest

from common.clients import AsyncOrderClient
from common.database_url import parse_database_url
from tests.conftest import MakeSku
from tests.e2e.conftest import wait_until
from tests.processes import free_port
from vv import databases
from vv.audit import Report, audit, open_books
from vv.bench import fill, latency, wrk_program
from vv.bench.load import Orders, Wrk
from vv.databases import Databases


@pytest.fixture(scope="module")
def floor() -> Iterator[str]:
    """The URL of the empty handler."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "vv.bench.floor", str(port)], stdout=subprocess.DEVNULL)

    def is_ready() -> bool:
        try:
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).status == 200)
        except OSError:
            return False

    wait_until(is_ready, 20)
    yield f"http://127.0.0.1:{port}/orders"
    process.terminate()
    process.wait(10)


@pytest.fixture
def wrk(tmp_path: Path) -> Wrk:
    return Wrk(wrk_program.find_or_install(print), tmp_path)


@pytest.mark.alone
async def test_closed_loop_counts_every_reply_once(wrk: Wrk, floor: str) -> None:
    """Also with many SKUs and carts; there are as many latencies as replies, whatever wrk adds to them."""
    for orders in (Orders("r1", "SKU"), Orders("r2", "SKU", skus=1_000), Orders("r3", "SKU", skus=1_000, lines=3)):
        result = await wrk.run(floor, orders, connections=4, seconds=1)
        assert (result.errors, result.planned) == ({}, None)
        assert sum(result.latencies.values()) == result.replies > 100
        assert 0.9 < result.seconds < 2
        assert 0 < result.cpu_s < 2


@pytest.mark.alone
async def test_open_loop_sends_what_is_due_and_waits_for_every_reply(wrk: Wrk, floor: str) -> None:
    """At random, but at the wanted rate on the average; each order has a latency and a lateness."""
    result = await wrk.run(floor, Orders("r4", "SKU"), connections=100, seconds=1, rate=300)
    assert result.errors == {}
    assert result.planned == result.replies == sum(result.latencies.values()) == sum(result.lateness.values())
    assert 200 < result.replies < 400
    assert result.seconds == 1
    assert latency.quantile_ms(result.lateness, 0.5) < 20


async def test_filled_tables_are_as_the_services_leave_them(tmp_path: Path) -> None:
    """The audit finds nothing wrong with any of the orders; enough of them are used again, too few are not."""
    progress: list[int] = []
    assert fill.prepare(tmp_path / "full", 300, print, progress.append) == 300
    assert sum(progress) == 3 * 300
    assert fill.prepare(tmp_path / "full", 200, print, progress.append) == 300
    assert sum(progress) == 3 * 300
    with databases.reachable(tmp_path / "full", {}, print) as found:
        async with open_books(found.service_urls) as books:
            report = await audit(books)
        assert (report.violations, report.orders, report.payments) == ([], 300, 300)
        assert report.skus > 300


async def test_filled_rows_have_every_column_that_real_ones_have(
    migrated: Databases, orders: AsyncOrderClient, make_sku: MakeSku, tmp_path: Path
) -> None:
    """A column that is set in the rows of a completed order is set in a row made by SQL, too."""
    real = await orders.create(user_id="ann", sku=await make_sku(), total_amount=1999)
    fill.prepare(tmp_path / "full", 1, print, lambda _: None)
    with databases.reachable(tmp_path / "full", {}, print) as found:
        tables = {
            "order": ("orders", "order_lines", "order_events"),
            "inventory": ("stock_ledger",),
            "payment": ("payments", "payment_events", "sandbox_gateway"),
        }
        for service, names in tables.items():
            for table in names:
                key = "SUBSTRING_INDEX(gateway_key, ':', 1)" if table == "sandbox_gateway" else "order_id"
                expected = _set_columns(migrated.migration_urls[service], f"{table} WHERE {key} = '{real.order_id}'")
                made = _set_columns(found.migration_urls[service], f"{table} WHERE {key} IS NOT NULL")
                assert made == expected, table


def _set_columns(url: str, rows: str) -> list[set[str]]:
    """The columns of each row that are not NULL."""
    address = parse_database_url(url)
    with (
        closing(pymysql.connect(database=address.pop("db"), **address)) as connection,
        connection.cursor(pymysql.cursors.DictCursor) as cursor,
    ):
        cursor.execute(f"SELECT * FROM {rows}")
        return [{name for name, value in row.items() if value is not None} for row in cursor.fetchall()]


async def test_audit_since_a_time_leaves_out_what_was_before(
    migrated: Databases, orders: AsyncOrderClient, make_sku: MakeSku
) -> None:
    """Orders, payments and SKUs that were made earlier are not looked at."""
    await orders.create(user_id="ann", sku=await make_sku(), total_amount=1999)
    sku = await make_sku()
    # An id has milliseconds, so that what was made in this very one would count, too.
    await asyncio.sleep(0.01)
    since = datetime.now(UTC)
    before = await audit_since(since, migrated)
    await orders.create(user_id="ann", sku=sku, total_amount=1999)
    after = await audit_since(since, migrated)

    assert (before.orders, before.skus) == (0, 0)
    # Other tests make payments for orders of their own invention, the ids of which tell no time.
    assert (after.orders, after.payments - before.payments, after.skus) == (1, 1, 0)
    assert after.violations == []


async def audit_since(since: datetime, migrated: Databases) -> Report:
    async with open_books(migrated.service_urls, since) as books:
        return await audit(books)
