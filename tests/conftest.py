"""A real database server for the whole run, the three services as real processes, and factories with defaults."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from common.clients import AsyncInventoryClient, AsyncOrderClient, AsyncPaymentClient, StockLevel
from common.database import Database
from common.telemetry import Metrics
from tests.database_server import VARIABLE, DatabaseServer, given_url, running_server
from tests.processes import Services
from vv import certs
from vv.audit import Books, Report, audit
from vv.databases import Databases

pytest_plugins = ["tests.taking_turns"]

MakeSku = Callable[..., Awaitable[str]]
Audit = Callable[[], Awaitable[Report]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``DATABASE_URL`` all processes of pytest use the same server."""
    for item in items:
        if given_url() and item.get_closest_marker("whole_server"):
            item.add_marker("alone")


@pytest.fixture(scope="session")
def database_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseServer]:
    """A private database server, only on a socket, or room on the one that ``DATABASE_URL`` names."""
    with running_server(tmp_path_factory.mktemp("stack")) as server:
        yield server


@pytest.fixture(scope="session")
def own_server() -> None:
    """For tests of the database server that vv runs, or of what becomes of ours when it dies: they start their own."""
    if given_url():
        pytest.skip(f"starts a database server of its own, so {VARIABLE} makes no difference to it")


@pytest.fixture(scope="session")
def reached_by_socket(migrated: Databases) -> None:
    """For services that have certificates: on TCP they talk to no database but one that has them, too."""
    if any("unix_socket=" not in url for url in migrated.service_urls.values()):
        pytest.skip(f"services that have certificates need them of the database, too, or a unix_socket in {VARIABLE}")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``vv certs`` makes. Whoever changes anything in it makes one of his own."""
    folder = tmp_path_factory.mktemp("certs")
    certs.ensure(folder)
    return folder


@pytest.fixture(scope="session")
def migrated(database_server: DatabaseServer) -> Databases:
    """The three databases with their tables and accounts."""
    return database_server.migrated()


@pytest.fixture(scope="session")
def services(migrated: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The three services, running for the whole session. A test that kills one starts it again."""
    running = Services(migrated.service_urls, tmp_path_factory.mktemp("logs"))
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
async def orders(services: Services) -> AsyncIterator[AsyncOrderClient]:
    async with AsyncOrderClient(services.order.url, timeout_s=60) as client:
        yield client


@pytest.fixture
async def inventory(services: Services) -> AsyncIterator[AsyncInventoryClient]:
    async with AsyncInventoryClient(services.inventory.url, timeout_s=60) as client:
        yield client


@pytest.fixture
async def payments(services: Services) -> AsyncIterator[AsyncPaymentClient]:
    async with AsyncPaymentClient(services.payment.url, timeout_s=60) as client:
        yield client


@pytest.fixture
def make_sku(inventory: AsyncInventoryClient) -> MakeSku:
    """Creates a SKU with a name of its own and gives the name."""

    async def make(quantity: int = 100, *, prefix: str = "SKU") -> str:
        level: StockLevel = await inventory.create(
            product_id="product", sku=f"{prefix}-{uuid4().hex[:12]}", quantity=quantity
        )
        return level.sku

    return make


@pytest.fixture
async def audit_books(migrated: Databases) -> AsyncIterator[Audit]:
    """Audits everything that all tests so far have done."""
    async with (
        open_database(migrated.service_urls["order"]) as order,
        open_database(migrated.service_urls["inventory"]) as inventory,
        open_database(migrated.service_urls["payment"]) as payment,
    ):
        yield lambda: audit(Books(order, inventory, payment))


def open_database(url: str, *, pool_size_max: int = 8) -> Database:
    return Database(
        url, Metrics("test"), pool_size_max=pool_size_max, pool_wait_s=10, lock_wait_s=5, transaction_timeout_s=30
    )


def log_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")
