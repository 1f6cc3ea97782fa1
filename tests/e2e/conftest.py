"""The services over plain sockets, and their books."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pymysql
import pytest

from common.database_url import parse_database_url
from tests.buyers import Buyers, buyers_at
from tests.e2e.raw import Server
from tests.front_door import FrontDoorProcess, Upstream, nginx_is_there
from tests.processes import Services
from vv.databases import Databases

# What each table holds, in numbers that every write changes.
_BOOKS = {
    "order": {
        "orders": "COUNT(*), SUM(version)",
        "order_lines": "COUNT(*), SUM(quantity)",
        "order_events": "COUNT(*), SUM(seq)",
    },
    "inventory": {
        "inventory": "COUNT(*), SUM(quantity), SUM(version)",
        "stock_ledger": "COUNT(*), SUM(delta)",
    },
    "payment": {
        "payments": "COUNT(*), SUM(version), SUM(refunded_amount)",
        "refunds": "COUNT(*), SUM(amount), SUM(done)",
        "payment_events": "COUNT(*), SUM(seq)",
        "sandbox_gateway": "COUNT(*), SUM(amount)",
    },
}

State = Mapping[str, tuple[Any, ...]]
MakeDoor = Callable[..., FrontDoorProcess]
StartServices = Callable[..., Services]


@dataclass(frozen=True)
class Servers:
    order: Server
    inventory: Server
    payment: Server

    def of(self, service: str) -> Server:
        server: Server = getattr(self, service)
        return server

    def new_sku(self, quantity: int = 100, *, product_id: str = "product") -> str:
        """A SKU with a name of its own."""
        sku = f"SKU-{uuid4().hex[:12]}"
        answer = self.inventory.post("/inventory/create", {"product_id": product_id, "sku": sku, "quantity": quantity})
        assert answer.status == 201, answer.body
        return sku


class Books:
    """Looks into the three databases behind the services' backs."""

    def __init__(self, connections: Mapping[str, "pymysql.Connection[Any]"]) -> None:
        self._connections = connections

    def state(self) -> State:
        """Numbers of which at least one changes when anything is written."""
        return {
            table: self._fetch(service, f"SELECT {numbers} FROM {table}")[0]
            for service, tables in _BOOKS.items()
            for table, numbers in tables.items()
        }

    def settle(self, timeout_s: float = 30) -> None:
        """Wait until recovery has nothing left to do."""
        wait_until(lambda: self._unfinished() == 0, timeout_s)

    def gateway(self, order_id: str) -> list[tuple[str, int]]:
        """What the sandbox really charged and refunded for an order, oldest first."""
        sql = "SELECT kind, amount FROM sandbox_gateway WHERE approved AND charge_key = %s ORDER BY entry_id"
        return self._fetch("payment", sql, f"{order_id}:charge")

    @contextmanager
    def row_locked(self, service: str, sql: str, *args: object) -> Iterator[None]:
        """Hold the row locks of a statement for a block."""
        connection = self._connections[service]
        connection.begin()
        try:
            self._fetch(service, sql, *args)
            yield
        finally:
            connection.rollback()

    def _unfinished(self) -> int:
        tables = {"order": "orders", "payment": "payments"}
        return sum(
            int(self._fetch(service, f"SELECT COUNT(lease_until) FROM {table}")[0][0])
            for service, table in tables.items()
        )

    def _fetch(self, service: str, sql: str, *args: object) -> list[tuple[Any, ...]]:
        with self._connections[service].cursor() as cursor:
            cursor.execute(sql, args)
            return list(cursor.fetchall())


@pytest.fixture(scope="session")
def servers(services: Services) -> Servers:
    return Servers(Server(services.order.url), Server(services.inventory.url), Server(services.payment.url))


@pytest.fixture(scope="session")
def books(migrated: Databases) -> Iterator[Books]:
    with contextlib.ExitStack() as stack:
        yield Books(
            {
                service: stack.enter_context(contextlib.closing(_connect(url)))
                for service, url in migrated.service_urls.items()
            }
        )


@pytest.fixture
def unchanged(books: Books) -> Iterator[None]:
    """Whatever the test does leaves no trace in any table."""
    before = books.state()
    yield
    assert books.state() == before


@pytest.fixture(scope="session")
def make_door(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeDoor]:
    """Starts a front door of the services at these URLs."""
    nginx_is_there()
    with contextlib.ExitStack() as stack:

        def make(upstreams: dict[str, str], **settings: str) -> FrontDoorProcess:
            door = FrontDoorProcess(tmp_path_factory.mktemp("door"), upstreams, certificates, **settings).start()
            stack.callback(door.stop)
            return door

        yield make


@pytest.fixture(scope="session")
def door(services: Services, make_door: MakeDoor) -> FrontDoorProcess:
    """In front of the real services, with generous limits."""
    return make_door(urls_of(services))


@pytest.fixture
def user() -> str:
    """A user who has ordered nothing yet."""
    return f"user-{uuid4().hex}"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture(scope="module")
def start_services(migrated: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServices]:
    """Starts further instances of the three services, with settings of their own, on the same databases."""
    with contextlib.ExitStack() as running:

        def start(**settings: str) -> Services:
            services = Services(migrated.service_urls, tmp_path_factory.mktemp("more"))
            running.callback(services.stop)
            return services.start(**settings)

        yield start


@pytest.fixture
async def buyers(services: Services) -> AsyncIterator[Buyers]:
    async with buyers_at(services.order.url) as found:
        yield found


@pytest.fixture(scope="module")
def admin(migrated: Databases) -> Iterator[dict[str, "pymysql.cursors.Cursor"]]:
    """Connections that may do everything."""
    with contextlib.ExitStack() as stack:
        cursors = {}
        for service, url in migrated.migration_urls.items():
            address = parse_database_url(url)
            connection = pymysql.connect(database=address.pop("db"), autocommit=True, **address)
            cursors[service] = stack.enter_context(contextlib.closing(connection)).cursor()
        yield cursors


def urls_of(services: Services) -> dict[str, str]:
    return {service.name: service.url for service in services.all}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture
def watched(upstream: Upstream, make_door: MakeDoor) -> FrontDoorProcess:
    """In front of a server that writes down what reaches it."""
    return make_door(dict.fromkeys(_BOOKS, upstream.url))


def wait_until(is_so: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def _connect(url: str) -> "pymysql.Connection[Any]":
    address = parse_database_url(url)
    return pymysql.connect(database=address.pop("db"), autocommit=True, **address)
