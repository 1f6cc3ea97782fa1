"""The vv command as scripts see it: its documents, its exit codes and its help."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import pytest
from click.testing import CliRunner

from tests.database_server import DatabaseServer
from tests.e2e.conftest import Servers
from tests.processes import Services, free_port, free_port_offset
from vv.__main__ import main
from vv.databases import SERVICES, Databases

Vv = Callable[..., "subprocess.CompletedProcess[str]"]
UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"


def run(environment: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """``vv``, as a process of its own."""
    usual = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    return subprocess.run(
        [sys.executable, "-m", "vv", *arguments],
        env={**usual, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def vv(services: Services) -> Vv:
    environment = {f"{service.name.upper()}_URL": service.url for service in services.all}
    return lambda *arguments, **changes: run(environment | changes, *arguments)


class TestCommands:
    def test_order_from_creation_to_cancellation(self, vv: Vv, servers: Servers) -> None:
        """Each command prints one document that the next one can be fed with, and exits with 0."""
        user, sku = uuid4().hex, servers.new_sku(10)
        placed = document(vv("order", "create", "--user", user, "--item", f"{sku}=3", "--amount", "700", "--json"))
        order_id = placed["order_id"]
        assert (placed["status"], placed["items"]) == ("completed", [{"sku": sku, "quantity": 3}])
        assert document(vv("order", "get", order_id, "--json")) == placed
        assert document(vv("--json", "order", "list", "--user", user)) == placed
        assert document(vv("order", "cancel", order_id, "--json"))["status"] == "cancelled"
        assert document(vv("payment", "get", order_id, "--json"))["status"] == "refunded"
        events = document(vv("order", "events", order_id, "--json"))["events"]
        assert [event["status"] for event in events][-3:] == ["completed", "cancelling", "cancelled"]

    def test_stock_from_creation_to_ledger(self, vv: Vv) -> None:
        """Created, added to, read; the ledger is one document a line, newest first."""
        sku = f"CLI-{uuid4().hex[:12]}"
        assert document(vv("stock", "create", sku, "--product", "p", "--quantity", "5", "--json"))["quantity"] == 5
        assert document(vv("stock", "add", sku, "--quantity", "2", "--json"))["items"][0]["quantity"] == 7
        assert document(vv("stock", "get", sku, "--json"))["quantity"] == 7
        ledger = vv("stock", "ledger", sku, "--json")
        assert [json.loads(line)["delta"] for line in ledger.stdout.splitlines()] == [2, 5]

    def test_part_of_a_payment_is_refunded_once(self, vv: Vv, servers: Servers) -> None:
        """The same request id again gives the same money back, not more."""
        order = {"user_id": "ada", "sku": servers.new_sku(), "total_amount": 700}
        order_id = servers.order.post("/orders", order).json()["order_id"]
        for _ in range(2):
            refund = vv("payment", "refund", order_id, "--amount", "300", "--request-id", "r", "--json")
            assert document(refund)["refunded_amount"] == 300

    def test_people_get_text(self, vv: Vv, servers: Servers) -> None:
        """Without --json, fields with names; amounts as people write them."""
        ended = vv("order", "create", "--user", "ada", "--sku", servers.new_sku(), "--amount", "1999")
        assert ended.returncode == 0
        assert "19.99 USD" in ended.stdout
        assert "completed" in ended.stdout

    def test_refusal_is_exit_code_1(self, vv: Vv) -> None:
        """A sentence on standard error, nothing on standard output; with --json the problem document."""
        for_people, for_scripts = vv("order", "get", UNKNOWN_ID), vv("order", "get", UNKNOWN_ID, "--json")
        assert (for_people.returncode, for_scripts.returncode) == (1, 1)
        assert (for_people.stdout, for_scripts.stdout) == ("", "")
        assert UNKNOWN_ID in for_people.stderr
        assert "Traceback" not in for_people.stderr
        assert json.loads(for_scripts.stderr)["code"] == "order_not_found"

    @pytest.mark.parametrize(
        "arguments",
        [
            ("order", "create", "--user", "ada"),
            ("order", "create", "--user", "ada", "--item", "MUG", "--amount", "1"),
            ("order", "list", "--status", "bogus"),
            ("stock", "add", "MUG", "--quantity", "many"),
            ("payment", "teleport"),
            ("order", "list", "--url", "nonsense"),
        ],
        ids=" ".join,
    )
    def test_wrong_usage_is_exit_code_2(self, arguments: tuple[str, ...]) -> None:
        """With the usage, and nothing sent."""
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Usage:" in result.stderr

    def test_unreachable_service_is_exit_code_3(self, vv: Vv) -> None:
        """The outcome is unknown; it says how to repeat the command without ordering twice."""
        nowhere = f"http://127.0.0.1:{free_port()}"
        order = ("order", "create", "--user", "ada", "--sku", "MUG", "--amount", "1", "--timeout", "1")
        ended = vv(*order, ORDER_URL=nowhere)
        assert ended.returncode == 3
        assert "--idempotency-key" in ended.stderr
        assert vv("order", "list", "--timeout", "1", ORDER_URL=nowhere).returncode == 3

    def test_an_order_that_is_not_decided_is_exit_code_3(self, vv: Vv, servers: Servers) -> None:
        """It is printed, and how to learn what became of it."""
        order = ("order", "create", "--user", "ada", "--sku", servers.new_sku(), "--amount", "1", "--json")
        ended = vv(*order, "--payment-method", "tok_timeout")
        assert ended.returncode == 3
        assert f"vv order get {json.loads(ended.stdout)['order_id']}" in ended.stderr


class TestDemo:
    def test_with_databases_of_ones_own(self, database_server: DatabaseServer, tmp_path: Path) -> None:
        """They are migrated and used, whatever server they are on; no other is started, and the books are clean."""
        with database_server.further(*(f"demo_{service}" for service in SERVICES)) as made:
            urls = {f"{service.upper()}_DATABASE_URL": url for service, url in zip(SERVICES, made, strict=True)}
            offset = str(free_port_offset())
            place = ("--data-dir", str(tmp_path / "data"), "--port-offset", offset)
            sale = document(run(urls, "demo", *place, "--buyers", "50", "--units", "20", "--json"))
        assert sum(sale["outcomes"].values()) == 50
        assert not (tmp_path / "data" / "mariadb").exists()


class TestAudit:
    def test_no_database_is_made(self, tmp_path: Path) -> None:
        """A mistyped folder is named, and stays what it is: not there."""
        ended = run({}, "audit", "--data-dir", str(tmp_path / "mistyped"))
        assert (ended.returncode, ended.stdout) == (3, "")
        assert "There is no database in" in ended.stderr
        assert not (tmp_path / "mistyped").exists()

    def test_a_database_without_tables_is_named(self, database_server: DatabaseServer, migrated: Databases) -> None:
        """With what to do about it."""
        urls = {f"{service.upper()}_DATABASE_URL": url for service, url in migrated.migration_urls.items()}
        urls["ORDER_DATABASE_URL"] = database_server.url("mysql")
        ended = run(urls, "audit")
        assert ended.returncode == 3
        assert "mysql.orders" in ended.stderr
        assert "vv migrate apply" in ended.stderr
        assert "Traceback" not in ended.stderr


def document(ended: "subprocess.CompletedProcess[str]") -> Any:
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command, groups included."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


class TestHelp:
    def test_help_lists_the_commands_and_exit_codes(self) -> None:
        """What a newcomer sees first."""
        ended = run({}, "--help")
        assert ended.returncode == 0
        for word in ("up", "demo", "migrate", "order", "stock", "payment", "audit", "Exit codes"):
            assert word in ended.stdout

    @pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
    def test_every_command_explains_itself(self, path: tuple[str, ...]) -> None:
        """A sentence on what it does, and a word on each of its options."""
        result = CliRunner().invoke(main, [*path, "--help"], prog_name="vv")
        assert result.exit_code == 0
        assert f"Usage: vv {' '.join(path)}" in result.output
        command = command_at(path)
        assert command.get_short_help_str(200).endswith(".")
        options = [option for option in command.params if isinstance(option, click.Option)]
        assert [option.name for option in options if not option.help] == []

    @pytest.mark.parametrize("path", [path for path in commands(main) if path[0] != "up"], ids=" ".join)
    def test_every_command_speaks_json(self, path: tuple[str, ...]) -> None:
        """--json everywhere."""
        command = command_at(path)
        if not isinstance(command, click.Group):
            assert "as_json" in {option.name for option in command.params}


def command_at(path: tuple[str, ...]) -> click.Command:
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command
