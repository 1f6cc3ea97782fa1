"""``vv up --tls --gateway`` as its user sees it: every hop encrypted, one door for users, and commands that find in."""

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from click.testing import CliRunner

from tests.conftest import log_of
from tests.e2e.conftest import wait_until
from tests.e2e.test_stack import Up
from tests.front_door import nginx_is_there
from tests.gateway_process import GatewayProcess
from tests.issuer_process import STAFF, IssuerProcess
from tests.processes import free_port_offset, is_alive
from vv import certs, nginx_program
from vv.__main__ import main
from vv.mariadb import Mariadb


class LockedUp(Up):
    OPTIONS = ("--tls", "--gateway")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IssuerProcess]:
    process = IssuerProcess(tmp_path_factory.mktemp("issuer")).start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def up(own_server: None, issuer: IssuerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LockedUp]:
    """A stack that is locked in every way there is, with a payment gateway of its own; it outlives each test."""
    nginx_is_there()
    folder = tmp_path_factory.mktemp("locked")
    certs.ensure(folder / "data" / "certs")
    gateway = GatewayProcess(folder, tls=folder / "data" / "certs").start()
    stack = LockedUp(folder / "data")
    stack.start(AUTH_ISSUER=issuer.url, PAYMENT_GATEWAY_URL=gateway.url)
    yield stack
    assert stack.end() == 0
    gateway.stop()


@pytest.fixture
def running(up: LockedUp) -> dict[str, Any]:
    stack = up.stack()
    assert stack is not None
    return stack


def vv(up: LockedUp, *arguments: str) -> "subprocess.CompletedProcess[str]":
    usual = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    command = [sys.executable, "-m", "vv", *arguments, "--data-dir", str(up.folder), "--json"]
    return subprocess.run(command, env=usual, capture_output=True, text=True, timeout=60, check=False)


def test_what_is_printed_works_when_pasted_with_a_token(up: LockedUp, issuer: IssuerProcess) -> None:
    """Through the front door, as a user; without a token there is a 401."""
    lines = up.output.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("  curl"))
    pasted = ["bash", "-c", "\n".join(lines[first : first + 2])]
    token = issuer.token("ann", *STAFF)
    let_in = subprocess.run(pasted, env={**os.environ, "TOKEN": token}, capture_output=True, check=True)
    assert json.loads(let_in.stdout)["status"] == "completed"
    asked = subprocess.run(pasted, env={**os.environ, "TOKEN": ""}, capture_output=True, check=True)
    assert json.loads(asked.stdout)["code"] == "unauthenticated"


def test_commands_call_as_the_operator(up: LockedUp) -> None:
    """They find the stack and its certificates by its folder, and so does the audit, also into the gateway."""
    assert vv(up, "stock", "create", "LOCKED-1", "--product", "p", "--quantity", "9").returncode == 0
    ordered = vv(up, "order", "create", "--user", "ann", "--sku", "LOCKED-1", "--amount", "700")
    assert (ordered.returncode, json.loads(ordered.stdout)["status"]) == (0, "completed")
    paid = vv(up, "payment", "get", json.loads(ordered.stdout)["order_id"])
    assert json.loads(paid.stdout)["amount"] == 700
    audited = vv(up, "audit")
    assert (audited.returncode, audited.stderr) == (0, "")
    sale = vv(up, "demo", "--buyers", "50", "--units", "20")
    assert sale.returncode == 0, sale.stderr
    assert json.loads(sale.stdout)["sold"] > 0


def test_nothing_is_said_in_plain_text(up: LockedUp, running: dict[str, Any]) -> None:
    """Services take no connection without a certificate, and the database none without TLS."""
    trusting = ssl.create_default_context(cafile=running["certificates"] + "/ca.crt")
    for service in ("order", "inventory", "payment"):
        with pytest.raises((ssl.SSLError, OSError)):
            urllib.request.urlopen(f"{running[service]}/livez", timeout=5, context=trusting)
    assert trusting.minimum_version <= ssl.TLSVersion.TLSv1_3
    account = {"host": "127.0.0.1", "port": running["database"]["port"], "user": "order_service"}
    password = Mariadb(up.folder).passwords["order_service"]
    with pytest.raises(pymysql.err.OperationalError, match=r"Access denied|insecure transport"):
        pymysql.connect(**account, password=password)
    with pymysql.connect(**account, password=password, ssl=trusting) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_version'")
        assert cursor.fetchone() == ("Ssl_version", "TLSv1.3")


def test_renewed_certificates_are_taken_over(up: LockedUp, running: dict[str, Any]) -> None:
    """By the front door, too, without a restart."""
    before = _serial(running["front_door"])
    assert vv(up, "certs", "--renew").returncode == 0
    wait_until(lambda: _serial(running["front_door"]) != before, 10)
    assert up.stack() == running
    wait_until(lambda: vv(up, "stock", "get", "LOCKED-1").returncode == 0, 10)


def _serial(url: str) -> str:
    return ssl.get_server_certificate(("127.0.0.1", int(url.rsplit(":", 1)[1])))


def test_the_front_door_is_started_again(up: LockedUp, running: dict[str, Any]) -> None:
    """When it is killed, though its workers live on and hold the port."""
    before = running["pids"]["front_door"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: (up.stack() or running)["pids"]["front_door"] != before, 20)
    trusting = ssl.create_default_context(cafile=running["certificates"] + "/ca.crt")

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{running['front_door']}/livez", timeout=5, context=trusting) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    wait_until(answers, 5)
    after = up.stack()
    assert after is not None
    assert is_alive(after["pids"]["front_door"])


def test_a_killed_vv_leaves_no_front_door_behind(up: LockedUp, running: dict[str, Any], issuer: IssuerProcess) -> None:
    """Like everything else it ends by itself, and the next stack takes its place."""
    up.end(signal.SIGKILL)
    up.start(AUTH_ISSUER=issuer.url, PAYMENT_GATEWAY_URL=running["gateway"])
    wait_until(lambda: not is_alive(running["pids"]["front_door"]), 1)
    assert "Address already in use" not in log_of(up.folder / "logs" / "front-door.log")


class TestWrongUsage:
    @pytest.mark.parametrize("option", ["--gateway", "--front-door"])
    def test_without_nginx(self, option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Nothing is started or installed, and the package is named."""
        monkeypatch.setattr(nginx_program, "find", lambda: None)
        result = CliRunner().invoke(main, ["up", option, "--data-dir", str(tmp_path / "data")])
        assert (result.exit_code, result.stdout) == (3, "")
        assert "nginx-light" in result.stderr
        assert not (tmp_path / "data").exists()

    def test_certificates_of_ones_own_without_tls(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The services would speak TLS, and nobody would know."""
        monkeypatch.setenv("ORDER_TLS_CERTIFICATE", "/etc/order.crt")
        result = CliRunner().invoke(main, ["up", "--data-dir", str(tmp_path / "data")])
        assert result.exit_code == 2
        assert "ORDER_TLS_CERTIFICATE" in result.stderr

    def test_a_limit_that_is_none(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """nginx says which line it does not take."""
        monkeypatch.setenv("FRONT_DOOR_RATE_PER_IP", "many")
        offset = str(free_port_offset())
        command = [sys.executable, "-m", "vv", "up", "--gateway", "--data-dir", str(tmp_path), "--port-offset", offset]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 3
        assert "invalid rate" in ended.stderr
