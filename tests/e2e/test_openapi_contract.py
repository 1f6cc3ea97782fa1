"""schemathesis holds each service to its OpenAPI document, with much that this allows and much that it forbids."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.contracts.base import STOCK_MAX
from tests.database_server import DatabaseServer
from tests.e2e.guarded import Guarded, guarded_stack
from tests.e2e.raw import Server
from tests.issuer_process import STAFF
from tests.processes import Services
from tests.route_tables import ROUTES
from vv.databases import SERVICES

_ROOT = Path(__file__).parents[2]
_CONFIG = Path(__file__).with_name("schemathesis.toml")
# What the examples of the documents are about. No run sells half of it, nor adds as much.
_MUG = {"product_id": "mug", "sku": "MUG-1", "quantity": STOCK_MAX // 2}

# How often each method and route was answered with each status.
Statuses = Counter[tuple[str, str, int]]


class Run(NamedTuple):
    """What schemathesis said in the end, and what the service answered meanwhile."""

    exit_code: int
    output: str
    statuses: Statuses

    def of(self, method: str, path: str) -> set[int]:
        return {status for found, route, status in self.statuses if (found, route) == (method, path)}


@pytest.fixture(scope="module")
def open_services(database_server: DatabaseServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Services without authentication, with databases of their own: who takes stock behind the back of the order
    service, as schemathesis does, leaves books that no audit could bear."""
    folder = tmp_path_factory.mktemp("documented")
    with database_server.further_stack(folder.name) as urls:
        services = Services(urls, folder)
        try:
            services.start()
            assert Server(services.inventory.url).post("/inventory/create", _MUG).status == 201
            yield services
        finally:
            services.stop()


@pytest.fixture(scope="module")
def guarded(database_server: DatabaseServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_stack(database_server, tmp_path_factory.mktemp("documented_guarded")) as stack:
        assert stack.staff().inventory.post("/inventory/create", _MUG).status == 201
        yield stack


@pytest.fixture(scope="module")
def with_open_doors(open_services: Services, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return run_all(open_services, tmp_path_factory.mktemp("st"))


@pytest.fixture(scope="module")
def without_token(guarded: Guarded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return run_all(guarded.services, tmp_path_factory.mktemp("st"), "--phases=examples,coverage")


@pytest.fixture(scope="module")
def with_tokens(guarded: Guarded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    tokens = {"USER_TOKEN": guarded.issuer.token("ann", *STAFF), "SERVICE_TOKEN": guarded.issuer.service_token()}
    return run_all(guarded.services, tmp_path_factory.mktemp("st"), **tokens)


@pytest.mark.parametrize("service", SERVICES)
def test_service_keeps_to_its_document(service: str, with_open_doors: dict[str, Run]) -> None:
    """No answer is a server error or differs from the document, no valid request is refused, and no invalid one is
    taken; and each operation got as far as a success, so that all this was not about refusals only."""
    assert_contract_holds(service, with_open_doors[service])


@pytest.mark.parametrize("service", SERVICES)
def test_guarded_service_keeps_to_its_document(service: str, with_tokens: dict[str, Run]) -> None:
    """The same for callers with the tokens that the document asks for; and each operation refuses the same request
    without a token, and with one that is none (the check ``ignored_auth``)."""
    assert_contract_holds(service, with_tokens[service])


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_answered_without_a_token(service: str, without_token: dict[str, Run]) -> None:
    """Whatever is sent, well-formed or not, to whatever operation: 401, as the document has it."""
    run = without_token[service]
    assert run.exit_code == 0, run.output
    for route in ROUTES[service]:
        assert run.of(route.method, route.path) == {401}, (route.method, route.path, run.output)


def assert_contract_holds(service: str, run: Run) -> None:
    assert run.exit_code == 0, run.output
    for route in ROUTES[service]:
        assert run.of(route.method, route.path) & set(route.replies), (route.method, route.path, run.output)


def run_all(services: Services, folder: Path, *options: str, **environment: str) -> dict[str, Run]:
    """Run schemathesis against the three services at once."""
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        running = {
            name: pool.submit(run_schemathesis, getattr(services, name).url, folder, *options, **environment)
            for name in SERVICES
        }
        return {name: run.result() for name, run in running.items()}


def run_schemathesis(url: str, folder: Path, *options: str, **environment: str) -> Run:
    before = statuses_of(url)
    st = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIG)]
    result = subprocess.run(
        [*st, "run", f"{url}/openapi.json", *options],
        env={**os.environ, "PYTHONPATH": str(_ROOT), **environment},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Run(result.returncode, result.stdout, statuses_of(url) - before)


def statuses_of(url: str) -> Statuses:
    """What a service has answered so far."""
    found: Statuses = Counter()
    for family in text_string_to_metric_families(Server(url).get("/metrics").body.decode()):
        for sample in family.samples:
            if sample.name == "vv_http_requests_total":
                labels = sample.labels
                found[labels["method"], labels["route"], int(labels["status"])] += int(sample.value)
    return found
