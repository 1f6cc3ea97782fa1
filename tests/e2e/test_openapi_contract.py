"""schemathesis holds each service to its OpenAPI document, with much that this allows and much that it forbids."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import migrate_all
from tests.e2e.raw import Server
from tests.processes import Services
from tests.route_tables import ROUTES
from vv.databases import SERVICES
from vv.mariadb import Mariadb

_ROOT = Path(__file__).parents[2]
_CONFIG = Path(__file__).with_name("schemathesis.toml")
# What the examples of the documents are about.
_MUG = {"product_id": "mug", "sku": "MUG-1", "quantity": 1_000_000}


class Run(NamedTuple):
    """What schemathesis said in the end, and what the service answered meanwhile."""

    exit_code: int
    output: str
    statuses: dict[tuple[str, str], set[int]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Services with databases of their own: who calls the inventory service behind the back of the order service,
    as schemathesis does, leaves books that no audit could bear."""
    mariadb = Mariadb(tmp_path_factory.mktemp("contract"))
    with mariadb.running():
        services = Services(migrate_all(mariadb).service_urls, tmp_path_factory.mktemp("logs"))
        try:
            services.start()
            assert Server(services.inventory.url).post("/inventory/create", _MUG).status == 201
            yield services
        finally:
            services.stop()


@pytest.mark.parametrize("service", SERVICES)
def test_service_keeps_to_its_document(service: str, shop: Services, tmp_path: Path) -> None:
    """No answer is a server error or differs from the document, no valid request is refused, and no invalid one is
    taken; and each operation got as far as a success, so that all this was not about refusals only."""
    run = run_schemathesis(getattr(shop, service).url, tmp_path)
    assert run.exit_code == 0, run.output
    for route in ROUTES[service]:
        assert run.statuses[route.method, route.path] & set(route.replies), (route.method, route.path, run.output)


def run_schemathesis(url: str, folder: Path, *options: str) -> Run:
    st = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIG)]
    result = subprocess.run(
        [*st, "run", f"{url}/openapi.json", *options],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Run(result.returncode, result.stdout, statuses_of(url))


def statuses_of(url: str) -> dict[tuple[str, str], set[int]]:
    """The statuses that a service has answered with so far, by method and route."""
    found: dict[tuple[str, str], set[int]] = {}
    for family in text_string_to_metric_families(Server(url).get("/metrics").body.decode()):
        for sample in family.samples:
            if sample.name == "vv_http_requests_total":
                labels = sample.labels
                found.setdefault((labels["method"], labels["route"]), set()).add(int(labels["status"]))
    return found
