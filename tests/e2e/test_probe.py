"""``python -m vv.probe``: the health check of containers, against real services."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.processes import ServiceProcess, Services
from vv import certs
from vv.databases import Databases


def probe(environment: Mapping[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "vv.probe", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def certified(
    reached_by_socket: None, migrated: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """A service that answers nobody without a certificate."""
    folder = tmp_path_factory.mktemp("probe")
    certs.ensure(folder / "certs")
    environment = {"INVENTORY_DATABASE_URL": migrated.service_urls["inventory"]}
    service = ServiceProcess("inventory", environment, folder / "log", folder / "certs").start()
    yield service
    service.stop()


def test_a_service_that_is_ready(services: Services) -> None:
    """0, and nothing to say, for either question."""
    for path in ("/readyz", "/livez"):
        ended = probe(services.order.environment, "order", path)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_an_answer_that_is_none(services: Services) -> None:
    """1, with the answer, which is what `docker inspect` and Kubernetes show."""
    ended = probe(services.order.environment, "order", "/nowhere")
    assert (ended.returncode, ended.stderr) == (1, "order/nowhere: HTTP/1.1 404 Not Found\n")


def test_it_shows_the_certificate_of_the_service(certified: ServiceProcess) -> None:
    """Without one there is no answer."""
    assert probe(certified.environment, "inventory").returncode == 0
    bare = {name: value for name, value in certified.environment.items() if "TLS" not in name}
    ended = probe(bare, "inventory")
    assert ended.returncode == 1
    assert "inventory/readyz" in ended.stderr


def test_it_believes_only_its_own_authority(certified: ServiceProcess, tmp_path: Path) -> None:
    """Whoever else listens there is not the service."""
    certs.ensure(tmp_path)
    other = {**certified.environment, "INVENTORY_TLS_CA": str(tmp_path / "ca.crt")}
    assert "CERTIFICATE_VERIFY_FAILED" in probe(other, "inventory").stderr
