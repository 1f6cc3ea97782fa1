"""The real stack of real processes, with a proxy on each link between them."""

import asyncio
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import aiohttp

from tests.faults.harness.disk import SmallDisk
from tests.faults.harness.ports import port_to_keep
from tests.faults.harness.process import Process, answers_with_200
from tests.faults.harness.proxy import Proxies, Proxy
from tests.processes import FAST_RECOVERY
from vv import databases, migrate
from vv.databases import SERVICES
from vv.mariadb import Mariadb

CHECKOUT = Path(__file__).parents[3]

# Everything that waits gives up soon, so that a fault of a second or two is long. Small pools run dry.
SHORT_WAITS = {
    **FAST_RECOVERY,
    "ORDER_CALL_TIMEOUT_S": "1",
    "PAYMENT_GATEWAY_TIMEOUT_S": "1",
    **{f"{service.upper()}_{name}": "1" for service in SERVICES for name in ("POOL_WAIT_S", "LOCK_WAIT_S")},
    **{f"{service.upper()}_TRANSACTION_TIMEOUT_S": "3" for service in SERVICES},
    **{f"{service.upper()}_POOL_SIZE_MAX": "4" for service in SERVICES},
}
# Of the gateway; what a fault may change.
USUAL_BEHAVIOUR = {"latency_s": 0, "unavailable": False, "error_after_charging": 0}


class Cluster:
    """A private database server, the payment gateway, the three services, and proxies between all of them.

    It runs once. ``settings`` are those of the services; faults that wait for something look there how long it takes.

    :param folder: for everything that they write; nobody else's
    :param seed: names the run in messages; chance is in the faults alone
    :param source: a folder with a copy of the packages from which to run the services; None for this checkout
    :param settings: environment variables for the services, over :data:`SHORT_WAITS`
    """

    def __init__(
        self, folder: Path, seed: int, *, source: Path | None = None, settings: Mapping[str, str] = {}
    ) -> None:
        self.folder = folder.absolute()
        self.seed = seed
        self.source = (source or CHECKOUT).absolute()
        self.settings = {**SHORT_WAITS, **settings, "PYTHONPATH": str(self.source)}
        self._ports: dict[str, int] = {}
        self.mariadb = Mariadb(self.folder / "database")
        self.disk = SmallDisk(self.mariadb.folder)
        self._proxies = Proxies()
        self.links: dict[str, Proxy] = {}
        self.processes: dict[str, Process] = {}
        self.database_urls: Mapping[str, str] = {}
        # Orders that a fault has cancelled on behalf of their buyers, or has tried to.
        self.cancelled: set[str] = set()
        self.gateway_ledger = self.folder / "gateway-ledger.jsonl"

    @property
    def order_url(self) -> str:
        return self.links["buyer-order"].url

    @property
    def inventory_url(self) -> str:
        return self.links["buyer-inventory"].url

    @property
    def payment_url(self) -> str:
        return self.links["buyer-payment"].url

    @property
    def gateway_url(self) -> str:
        return self.direct_url("gateway")

    def direct_url(self, service: str) -> str:
        """The service, or the gateway, without a proxy in front of it."""
        return f"http://127.0.0.1:{self._ports[service]}"

    @contextmanager
    def running(self) -> Iterator[Self]:
        """The whole cluster for a block. Blocks while it starts and ends. Raises AssertionError."""
        with ExitStack() as undo:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "logs").mkdir(exist_ok=True)
            self._ports = {
                name: port_to_keep(undo) for name in ("order", "inventory", "payment", "gateway", "database")
            }
            self.mariadb.port = self._ports["database"]
            self._start_proxies(undo)
            undo.enter_context(self.disk.mounted())
            self._start_database(undo)
            self._start_programs(undo)
            yield self

    async def heal(self) -> None:
        """All faults off, all processes up and ready."""
        for link in self.links.values():
            await link.heal()
        self.disk.free()
        # The database first: no service is ready without it.
        for name in ("database", "gateway", "payment", "inventory", "order"):
            process = self.processes[name]
            process.resume()
            if not process.is_alive:
                await process.start().ready()
        await asyncio.gather(*(process.ready() for process in self.processes.values()))
        async with aiohttp.ClientSession(self.gateway_url, raise_for_status=True) as gateway:
            await gateway.put("/behaviour", json=USUAL_BEHAVIOUR)

    def _start_proxies(self, undo: ExitStack) -> None:
        self._proxies.start()
        undo.callback(self._proxies.end)
        upstream = {
            **{f"buyer-{service}": service for service in SERVICES},
            "order-inventory": "inventory",
            "order-payment": "payment",
            "payment-gateway": "gateway",
            **{f"{service}-database": "database" for service in SERVICES},
        }
        for name, process in upstream.items():
            self.links[name] = link = Proxy(name, port_to_keep(undo), self._ports[process], self._proxies)
            link.start()
            undo.callback(link.end)

    def _start_database(self, undo: ExitStack) -> None:
        self.mariadb.prepare(_say_nothing)
        # Its log is not on its disk: who wants to know what happened when that was full would find nothing.
        log = self.folder / "logs" / "database.log"
        database = Process("database", self.mariadb.command(), {}, log, self.mariadb.is_ready, self.folder)
        self._start(database, undo)
        database.wait_until_ready()
        found = databases.embedded(self.mariadb)
        for service in SERVICES:
            migrate.apply(service, found.migration_urls[service], _say_nothing)
        self.mariadb.grant(afresh=False)
        self.database_urls = found.service_urls

    def _start_programs(self, undo: ExitStack) -> None:
        self._start(self._gateway(), undo)
        for service in ("payment", "inventory", "order"):
            self._start(self._service(service), undo)
        for process in self.processes.values():
            process.wait_until_ready()

    def _start(self, process: Process, undo: ExitStack) -> None:
        self.processes[process.name] = process
        undo.callback(process.end)
        process.start()

    def _gateway(self) -> Process:
        """The gateway is the ground truth, so it always runs from this checkout."""
        port = str(self._ports["gateway"])
        command = [sys.executable, "-m", "vv", "gateway", "--port", port, "--ledger", str(self.gateway_ledger)]
        log = self.folder / "logs" / "gateway.log"
        return Process("gateway", command, {}, log, lambda: answers_with_200(f"{self.gateway_url}/livez"), CHECKOUT)

    def _service(self, name: str) -> Process:
        prefix = name.upper()
        environment = {
            **self.settings,
            f"{prefix}_PORT": str(self._ports[name]),
            f"{prefix}_DATABASE_URL": self._through_proxy(name),
            "ORDER_INVENTORY_URL": self.links["order-inventory"].url,
            "ORDER_PAYMENT_URL": self.links["order-payment"].url,
            "PAYMENT_GATEWAY_URL": self.links["payment-gateway"].url,
        }
        command = [sys.executable, "-m", f"{name}_service"]
        url = self.direct_url(name)
        log = self.folder / "logs" / f"{name}.log"
        # -m looks into the working folder before PYTHONPATH.
        return Process(name, command, environment, log, lambda: answers_with_200(f"{url}/readyz"), self.source)

    def _through_proxy(self, service: str) -> str:
        """The database URL of a service, by way of its proxy instead of the socket."""
        direct = urlsplit(self.database_urls[service])
        account = direct.netloc.rpartition("@")[0]
        port = self.links[f"{service}-database"].port
        return direct._replace(netloc=f"{account}@127.0.0.1:{port}", query="").geturl()


def _say_nothing(_: str) -> None:
    """Nobody reads along."""
