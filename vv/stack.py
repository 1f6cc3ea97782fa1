"""The supervisor behind ``vv up``: database, services and front door as one thing that starts, runs and stops."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from common.server import raise_open_files_limit
from vv import certs, databases, folder, front_door, migrate, nginx_program, process, stack_file
from vv.children import STOP_TIMEOUT_S, check_start, end, in_thread, keep_alive
from vv.databases import Databases
from vv.errors import Unavailable
from vv.front_door import FrontDoor
from vv.mariadb import START_TIMEOUT_S as DATABASE_START_TIMEOUT_S
from vv.mariadb import Mariadb
from vv.output import Say, say
from vv.process import Child
from vv.stack_services import PORTS, Services, without_settings

# Below the ports that systems hand out to outgoing connections (from 32768 on Linux), which are taken at random.
DATABASE_PORT = 13306
PORT_OFFSET_MAX = 65_535 - DATABASE_PORT

_POLL_INTERVAL_S = 0.03


class Stack:
    """The whole stack in one data folder. ``start``, then ``run`` for as long as wanted, then always ``stop``.

    :param data_dir: the data folder; created when it is not there
    :param port_offset: what to add to every port, so that several stacks can run side by side
    :param workers: the processes of each service; by default what its settings say
    :param tls: encrypt every connection, with the certificates in ``certs`` of the data folder
    :param with_front_door: run nginx as the front door, too
    :param environment: settings for the services, and databases of one's own; this process's by default
    :param say: takes a line about each thing that happens
    """

    def __init__(
        self,
        data_dir: Path,
        port_offset: int = 0,
        *,
        workers: int | None = None,
        tls: bool = False,
        with_front_door: bool = False,
        environment: Mapping[str, str] = os.environ,
        say: Say = say,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.logs_dir = self.data_dir / "logs"
        self.certificates = self.data_dir / "certs"
        self.tls = tls
        self._services = Services(port_offset, workers, environment, self.certificates if tls else None)
        self.urls = self._services.urls
        self.front_door = self._front_door(front_door.PORT + port_offset, environment) if with_front_door else None
        self._database_port = DATABASE_PORT + port_offset
        self._environment = environment
        self.say = say
        self._mariadb: Mariadb | None = None
        # In the order in which they start: the database, if it is ours, the services, the front door.
        self._children: dict[str, Child] = {}
        self._hurry = asyncio.Event()
        self._folder_lock: ExitStack | None = None

    async def start(self) -> None:
        """Bring everything up, then write ``stack.json``. What was started when this fails, ``stop`` stops.

        Raises Unavailable, Refused (a migration failed), click.UsageError (the environment is contradictory).
        """
        configured = databases.configured(self._environment)
        if not self.tls:
            _refuse_tls_settings(self._environment)
        if self.front_door is not None:
            nginx_program.require()
        raise_open_files_limit()
        self._lock_folder()
        await in_thread(lambda: process.wait_for_leftovers(self.data_dir, STOP_TIMEOUT_S, self.say))
        self._check_ports(own_database=configured is None)
        if self.tls or self.front_door:
            await in_thread(lambda: certs.ensure(self.certificates))
        door = await in_thread(self.front_door.prepare) if self.front_door else None
        found = configured or await self._start_mariadb()
        await in_thread(lambda: self._migrate(found))
        await self._start_services(found)
        if self.front_door and door:
            self._children["front_door"] = door
            await door.start()
            await self.front_door.wait_until_ready(door)
        self._write_stack_file()

    async def run(self) -> None:
        """Start again whatever dies, until cancelled."""
        async with asyncio.TaskGroup() as keepers:
            for child in self._children.values():
                keepers.create_task(keep_alive(child, self._write_stack_file, self.say))
            if self.front_door is not None:
                keepers.create_task(self.front_door.follow_certificates(self._children["front_door"]))

    async def stop(self) -> None:
        """Stop what was started, which lets running requests finish. Never while ``run`` runs."""
        if self._folder_lock is None:
            return
        stack_file.path_in(self.data_dir).unlink(missing_ok=True)
        # Whoever calls others stops before them: what it still does needs them.
        await self._end(["front_door"], self._hurry)
        await self._end(["order"], self._hurry)
        await self._end(["inventory", "payment"], self._hurry)
        await self._end(["database"], asyncio.Event())
        self._folder_lock.close()
        self._folder_lock = None

    def hurry(self) -> None:
        """Have :meth:`stop` kill the services that still drain. The database always ends in order."""
        self._hurry.set()

    def _front_door(self, port: int, environment: Mapping[str, str]) -> FrontDoor:
        return FrontDoor(self.data_dir, port, self.urls, self.certificates, environment)

    async def _end(self, names: Sequence[str], hurry: asyncio.Event) -> None:
        await end([self._children[name] for name in names if name in self._children], hurry, self.say)

    def _lock_folder(self) -> None:
        with ExitStack() as lock:
            lock.enter_context(folder.locked(self.data_dir))
            self._folder_lock = lock.pop_all()
        # Of a vv that was killed.
        stack_file.path_in(self.data_dir).unlink(missing_ok=True)

    def _check_ports(self, *, own_database: bool) -> None:
        ports = {f"{service} service": port for service, port in self._services.ports.items()}
        if own_database:
            ports["database"] = self._database_port
        if self.front_door:
            ports["front door"] = self.front_door.port
        for name, port in ports.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise Unavailable(
                        f"Port {port}, for the {name}, cannot be used "
                        f"({(error.strerror or '').lower()}); choose other ports with --port-offset."
                    ) from None

    async def _start_mariadb(self) -> Databases:
        certificates = self.certificates if self.tls else None
        self._mariadb = mariadb = Mariadb(self.data_dir, self._database_port, certificates)
        await in_thread(lambda: mariadb.prepare(self.say))
        child = Child("database", mariadb.command(), without_settings(self._environment), self.data_dir, mariadb.log)
        self._children["database"] = child
        await child.start()
        deadline = time.monotonic() + DATABASE_START_TIMEOUT_S
        while not await in_thread(mariadb.is_ready):
            check_start(child, deadline, "it does not answer")
            await asyncio.sleep(_POLL_INTERVAL_S)
        return databases.embedded(mariadb)

    def _migrate(self, found: Databases) -> None:
        for service, url in found.migration_urls.items():
            migrate.apply(service, url, self.say)
        if found.embedded:
            found.embedded.grant(afresh=True)

    async def _start_services(self, found: Databases) -> None:
        for service in PORTS:
            self._children[service] = child = Child(
                f"{service} service",
                [sys.executable, "-m", f"{service}_service"],
                self._services.settings_of(service, found.service_urls[service]),
                self.data_dir,
                self.logs_dir / f"{service}.log",
            )
            await child.start()
        await self._services.wait_until_ready(self._children, self.say)
        for doubt in dict.fromkeys(doubt for service in PORTS for doubt in self._children[service].doubts()):
            self.say(f"In doubt: {doubt}")

    def _write_stack_file(self) -> None:
        pids = {name: child.pid for name, child in self._children.items()}
        gateway_url = self._environment.get("PAYMENT_GATEWAY_URL") or None
        stack_file.write(
            self.data_dir,
            self.urls,
            pids,
            self._mariadb,
            gateway_url,
            front_door=self.front_door.url if self.front_door else None,
            certificates=self.certificates if self.tls else None,
        )


def _refuse_tls_settings(environment: Mapping[str, str]) -> None:
    prefixes = ("", *(f"{service.upper()}_" for service in PORTS))
    found = [name for prefix in prefixes if environment.get(name := f"{prefix}TLS_CERTIFICATE")]
    if found:
        raise click.UsageError(f"{found[0]} is set: vv up encrypts with certificates of its own, and only with --tls.")
