"""Millions of finished orders in the tables of a stack, before it starts."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymysql

from vv import databases, folder, migrate, sql
from vv.bench import filling
from vv.bench.stacks import wipe
from vv.databases import Databases
from vv.errors import Unavailable
from vv.output import Say

_SPAN = timedelta(days=180)
_DIRTY_PAGES_MAX = 500
_WRITTEN_WITHIN_S = 300.0

Progress = Callable[[int], None]


def prepare(data_dir: Path, orders: int, say: Say, progress: Progress) -> int:
    """See to it that the tables of a data folder hold at least so many finished orders, and that no page is in memory.

    What it holds already is used again if it is enough, else it is wiped. Blocks, for minutes. Returns how many orders
    there are; ``progress`` is told how many more were made (in parts of one: each service has its share of an order).
    Raises Unavailable.
    """
    marker = data_dir / "filled.json"
    filled = int(json.loads(marker.read_text())["orders"]) if marker.exists() else 0
    if filled < orders:
        wipe(data_dir, say)
        with databases.reachable(data_dir, {}, say) as found:
            for service, url in found.migration_urls.items():
                migrate.apply(service, url, say)
            if found.embedded is not None:
                found.embedded.grant(afresh=False)
            fill(found, orders, progress)
        # Only now: what was interrupted half-way is not to be used again.
        folder.write_whole(marker, json.dumps({"orders": orders}) + "\n")
        filled = orders
    # With it the server would read the pages in again that it had in memory when it ended.
    (data_dir / "mariadb" / "ib_buffer_pool").unlink(missing_ok=True)
    return filled


def fill(found: Databases, orders: int, progress: Progress) -> None:
    """Put finished orders into empty tables, into all three databases at the same time. Blocks. Raises Unavailable."""
    moments = {"start": (datetime.now(UTC) - _SPAN).replace(tzinfo=None), "orders": orders}
    moments["step_us"] = int(_SPAN / timedelta(microseconds=1)) // orders
    interrupted = threading.Event()
    with ThreadPoolExecutor(len(filling.ROWS)) as pool:
        jobs = [
            pool.submit(_fill_one, service, found.migration_urls[service], moments, progress, interrupted)
            for service in filling.ROWS
        ]
        try:
            for job in jobs:
                job.result()
        except pymysql.MySQLError as error:
            raise Unavailable(f"The tables could not be filled: {error}.") from error
        finally:
            interrupted.set()
    with _connected(found.migration_urls["order"]) as cursor:
        _write_pages(cursor)


def _fill_one(
    service: str, url: str, moments: dict[str, Any], progress: Progress, interrupted: threading.Event
) -> None:
    with _connected(url) as cursor:
        for statement in filling.SETTINGS:
            cursor.execute(statement)
        create, insert = filling.STAGE
        cursor.execute(create)
        for statement in filling.STOCK if service == "inventory" else ():
            cursor.execute(statement, moments)
        for first in range(0, moments["orders"], filling.CHUNK_MAX):
            end = min(first + filling.CHUNK_MAX, moments["orders"])
            cursor.execute("DELETE FROM staged")
            cursor.execute(insert, {**moments, "first": first, "end": end})
            for statement in filling.ROWS[service]:
                if interrupted.is_set():
                    return
                cursor.execute(statement)
            progress(end - first)


def _write_pages(cursor: Any) -> None:
    for statement in filling.SETTINGS_AFTER:
        cursor.execute(statement)
    deadline = time.monotonic() + _WRITTEN_WITHIN_S
    while time.monotonic() < deadline:
        cursor.execute(filling.DIRTY_PAGES)
        if int(cursor.fetchone()[1]) <= _DIRTY_PAGES_MAX:
            return
        time.sleep(0.2)


@contextmanager
def _connected(url: str) -> Iterator[Any]:
    with contextlib.closing(sql.connect(url, autocommit=True)) as connection, connection.cursor() as cursor:
        yield cursor
