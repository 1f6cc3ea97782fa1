"""The three services with their doors locked: an issuer, tokens of its users, and the books, to see who got in."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pymysql

from common.database_url import parse_database_url
from tests.database_server import DatabaseServer
from tests.e2e.conftest import Books
from tests.e2e.raw import Answer, Server, assert_problem
from tests.issuer_process import STAFF, IssuerProcess
from tests.processes import ServiceProcess, Services

CLIENT = {"ORDER_AUTH_CLIENT_ID": "order-service", "ORDER_AUTH_CLIENT_SECRET": "order-secret"}


class Session:
    """A service, called with one token, or with none."""

    def __init__(self, server: Server, token: str | None) -> None:
        self._server = server
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> Answer:
        return self._server.call("GET", path, None, self._headers)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        return self._server.send_json("POST", path, body, {**self._headers, **(headers or {})})

    def patch(self, path: str, body: object) -> Answer:
        return self._server.send_json("PATCH", path, body, self._headers)


@dataclass(frozen=True)
class Person:
    """Somebody with a token, at the three services."""

    token: str | None
    order: Session
    inventory: Session
    payment: Session

    def buy(self, sku: str, *, key: str | None = None, **fields: Any) -> Answer:
        headers = {"Idempotency-Key": key} if key else {}
        return self.order.post("/orders", {"sku": sku, "total_amount": 700, **fields}, headers)

    def bought(self, sku: str, **fields: Any) -> str:
        """The id of an order that was completed."""
        answer = self.buy(sku, **fields)
        assert answer.status == 201, answer.body
        return str(answer.json()["order_id"])

    def new_sku(self, quantity: int = 100) -> str:
        sku = f"SKU-{uuid4().hex[:12]}"
        answer = self.inventory.post("/inventory/create", {"product_id": "p", "sku": sku, "quantity": quantity})
        assert answer.status == 201, answer.body
        return sku

    def stock_of(self, sku: str) -> int:
        return int(self.inventory.get(f"/inventory/sku?sku={sku}").json()["quantity"])


@dataclass(frozen=True)
class Guarded:
    """A stack whose services have authentication on."""

    issuer: IssuerProcess
    services: Services
    books: Books

    def server(self, service: str) -> Server:
        return Server(self.process(service).url)

    def process(self, service: str) -> ServiceProcess:
        process: ServiceProcess = getattr(self.services, service)
        return process

    def with_token(self, token: str | None) -> Person:
        return Person(token, *(Session(self.server(name), token) for name in ("order", "inventory", "payment")))

    def person(self, name: str, *scopes: str, sub: str | None = None) -> Person:
        """A user with these scopes, a buyer if none are given."""
        return self.with_token(self.issuer.token(name, *scopes, sub=sub))

    def staff(self) -> Person:
        return self.person("staff", *STAFF)

    def log_lines(self) -> list[dict[str, Any]]:
        """What the three services have logged so far. Each line must be one JSON object."""
        found = []
        for service in self.services.all:
            for line in service.log.read_bytes().decode("utf-8").split("\n")[:-1]:
                entry = json.loads(line)
                assert isinstance(entry, dict), line
                found.append(entry)
        return found


@contextmanager
def guarded_stack(database_server: DatabaseServer, folder: Path, **settings: str) -> Iterator[Guarded]:
    """Run one, with databases of its own on a server that is up."""
    with contextlib.ExitStack() as stack:
        urls = stack.enter_context(database_server.further_stack(folder.name))
        issuer = IssuerProcess(folder).start()
        stack.callback(issuer.stop)
        environment = {"AUTH_ISSUER": issuer.url, **CLIENT, **settings}
        services = Services(urls, folder, None, **environment)
        stack.callback(services.stop)
        services.start()
        connections = {name: stack.enter_context(contextlib.closing(_connect(url))) for name, url in urls.items()}
        yield Guarded(issuer, services, Books(connections))


def _connect(url: str) -> "pymysql.Connection[Any]":
    address = parse_database_url(url)
    return pymysql.connect(database=address.pop("db"), autocommit=True, **address)


def assert_forbidden(answer: Answer) -> None:
    assert_problem(answer, 403, "forbidden")
    asked = answer.headers["WWW-Authenticate"]
    assert asked.startswith('Bearer error="insufficient_scope"'), asked


class Trap:
    """An attacker's server: it only counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/keys"
        self.visits = 0
        threading.Thread(target=self._count, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake a thread that waits in accept().
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _count(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.visits += 1
                connection.close()
