"""The vv command as scripts see it: its documents, its exit codes, its help, and what the audit finds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any
from uuid import uuid4

import click
import pymysql
import pytest
from click.testing import CliRunner

from common.database_url import parse_database_url
from tests.e2e.conftest import Books, Servers
from tests.processes import Services, free_port
from vv import accounts, migrate
from vv.__main__ import main
from vv.audit import NAMES
from vv.databases import Databases
from vv.mariadb import Mariadb

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


class Forger:
    """Writes books of its own: whole, and then with one thing wrong with them."""

    def __init__(self, connections: Mapping[str, "pymysql.Connection[Any]"]) -> None:
        self._connections = connections

    def execute(self, service: str, sql: str, *args: object) -> None:
        with self._connections[service].cursor() as cursor:
            cursor.execute(sql, args)

    def wipe(self) -> None:
        for service, grants in accounts.GRANTS.items():
            for table in grants.keys() - {"_yoyo_migration"}:
                self.execute(service, f"DELETE FROM {table}")

    def stock(self, sku: str, quantity: int, *, left: int) -> None:
        self.execute("inventory", "INSERT INTO inventory (sku, product_id, quantity) VALUES (%s, 'p', %s)", sku, left)
        self.ledger(sku, "create", sku, quantity, quantity)

    def ledger(self, request_id: str, kind: str, sku: str, delta: int, quantity: int) -> None:
        self.execute(
            "inventory",
            "INSERT INTO stock_ledger (request_id, kind, line, sku, delta, quantity) VALUES (%s, %s, 1, %s, %s, %s)",
            *(request_id, kind, sku, delta, quantity),
        )

    def order(self, order_id: str, sku: str, *path: str) -> None:
        self.execute(
            "order",
            "INSERT INTO orders (order_id, user_id, status, total_amount, currency, payment_method, fingerprint) "
            "VALUES (%s, 'u', %s, 700, 'USD', 'tok_ok', '')",
            *(order_id, path[-1]),
        )
        self.execute("order", "INSERT INTO order_lines VALUES (%s, %s, 1)", order_id, sku)
        for seq, status in enumerate(path, start=1):
            self.execute(
                "order", "INSERT INTO order_events (order_id, seq, status) VALUES (%s, %s, %s)", order_id, seq, status
            )

    def payment(self, order_id: str, *path: str) -> None:
        self.execute(
            "payment",
            "INSERT INTO payments (order_id, payment_id, amount, currency, payment_method, status) "
            "VALUES (%s, 'p', 700, 'USD', 'tok_ok', %s)",
            *(order_id, path[-1]),
        )
        for seq, status in enumerate(path, start=1):
            self.execute(
                "payment",
                "INSERT INTO payment_events (order_id, seq, status, amount) VALUES (%s, %s, %s, 700)",
                *(order_id, seq, status),
            )

    def gateway(self, order_id: str, kind: str, key: str, amount: int) -> None:
        self.execute(
            "payment",
            "INSERT INTO sandbox_gateway (gateway_key, kind, charge_key, amount, currency, approved) "
            "VALUES (%s, %s, %s, %s, 'USD', TRUE)",
            *(f"{order_id}:{key}", kind, f"{order_id}:charge", amount),
        )

    def refund(self, order_id: str, amount: int) -> None:
        self.execute(
            "payment", "INSERT INTO refunds (order_id, n, amount, done) VALUES (%s, 1, %s, TRUE)", order_id, amount
        )

    def completed(self) -> tuple[str, str]:
        """An order of one unit of a SKU that had ten, all in order; its id and the SKU."""
        order_id, sku = self._failed_with_stock_taken("created", "inventory_reserved", "paid", "completed")
        self.payment(order_id, "pending", "captured")
        self.gateway(order_id, "charge", "charge", 700)
        return order_id, sku

    def failed(self) -> tuple[str, str]:
        """An order that failed and still has its stock; it has no payment yet."""
        return self._failed_with_stock_taken("created", "inventory_reserved", "failing", "failed")

    def _failed_with_stock_taken(self, *path: str) -> tuple[str, str]:
        order_id, sku = str(uuid4()), uuid4().hex
        self.stock(sku, 10, left=9)
        self.order(order_id, sku, *path)
        self.ledger(f"{order_id}:deduct", "deduct", sku, -1, 9)
        return order_id, sku


def negative_stock(forger: Forger) -> None:
    forger.execute("inventory", "SET SESSION check_constraint_checks = 0")
    forger.stock("negative", 0, left=-1)
    forger.ledger("r", "deduct", "negative", -1, -1)
    forger.execute("inventory", "SET SESSION check_constraint_checks = 1")


def stock_without_a_ledger_row(forger: Forger) -> None:
    _, sku = forger.completed()
    forger.execute("inventory", "UPDATE inventory SET quantity = quantity + 1 WHERE sku = %s", sku)


def stock_created_twice(forger: Forger) -> None:
    _, sku = forger.completed()
    forger.ledger("again", "create", sku, 0, 9)


def order_with_less_than_its_lines(forger: Forger) -> None:
    order_id, _ = forger.completed()
    forger.execute("order", "UPDATE order_lines SET quantity = 2 WHERE order_id = %s", order_id)


def failed_order_that_keeps_its_stock(forger: Forger) -> None:
    order_id, _ = forger.failed()
    forger.payment(order_id, "pending", "declined")


def order_charged_too_little(forger: Forger) -> None:
    order_id, _ = forger.completed()
    forger.execute("order", "UPDATE orders SET total_amount = 701 WHERE order_id = %s", order_id)


def failed_order_that_is_charged(forger: Forger) -> None:
    order_id, sku = forger.failed()
    forger.ledger(f"{order_id}:deduct", "rollback", sku, 1, 10)
    forger.execute("inventory", "UPDATE inventory SET quantity = 10 WHERE sku = %s", sku)
    forger.payment(order_id, "pending", "captured")
    forger.gateway(order_id, "charge", "charge", 700)


def timeline_with_a_gap(forger: Forger) -> None:
    order_id, _ = forger.completed()
    forger.execute("order", "DELETE FROM order_events WHERE order_id = %s AND seq = 2", order_id)


def final_order_with_a_lease(forger: Forger) -> None:
    order_id, _ = forger.completed()
    forger.execute("order", "UPDATE orders SET lease_until = NOW(6) WHERE order_id = %s", order_id)


def payment_that_jumps(forger: Forger) -> None:
    order_id, _ = forger.completed()
    forger.execute("payment", "UPDATE payment_events SET status = 'voided' WHERE order_id = %s AND seq = 1", order_id)


def refund_that_nobody_noted(forger: Forger) -> None:
    order_id, _ = forger.completed()
    forger.refund(order_id, 100)
    forger.gateway(order_id, "refund", "refund:1", 100)


def double_charge(forger: Forger) -> None:
    order_id = str(uuid4())
    forger.payment(order_id, "pending")
    forger.gateway(order_id, "charge", "charge", 700)
    forger.gateway(order_id, "charge", "charge:again", 700)


def charge_that_the_gateway_does_not_know(forger: Forger) -> None:
    order_id, _ = forger.completed()
    forger.execute("payment", "DELETE FROM sandbox_gateway WHERE charge_key = %s", f"{order_id}:charge")


def refund_that_the_gateway_does_not_know(forger: Forger) -> None:
    order_id, _ = forger.completed()
    forger.refund(order_id, 100)
    forger.execute("payment", "UPDATE payments SET refunded_amount = 100 WHERE order_id = %s", order_id)


def charge_of_no_order(forger: Forger) -> None:
    forger.gateway(str(uuid4()), "charge", "charge", 700)


PLANTED: dict[str, Callable[[Forger], None]] = {
    "stock_is_never_negative": negative_stock,
    "ledger_sums_up_to_stock": stock_without_a_ledger_row,
    "stock_begins_with_its_creation": stock_created_twice,
    "completed_orders_hold_exactly_their_lines": order_with_less_than_its_lines,
    "failed_and_cancelled_orders_hold_no_stock": failed_order_that_keeps_its_stock,
    "completed_orders_are_charged_the_right_amount": order_charged_too_little,
    "charged_orders_are_completed_or_refunded": failed_order_that_is_charged,
    "order_timelines_are_paths_of_the_state_machine": timeline_with_a_gap,
    "unfinished_orders_have_a_lease": final_order_with_a_lease,
    "payment_timelines_are_paths_of_the_state_machine": payment_that_jumps,
    "refunds_never_exceed_the_charge": refund_that_nobody_noted,
    "nobody_is_charged_twice": double_charge,
    "the_gateway_charged_what_we_captured": charge_that_the_gateway_does_not_know,
    "the_gateway_refunded_what_we_did": refund_that_the_gateway_does_not_know,
    "gateway_entries_belong_to_a_payment": charge_of_no_order,
}


@pytest.fixture(scope="module")
def forged_urls(mariadb: Mariadb) -> dict[str, str]:
    """Three databases beside the real ones, so that what is planted in them troubles nobody."""
    urls = {}
    for service in accounts.GRANTS:
        url = mariadb.migration_url(service)
        with closing(connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE forged_{service}")
        urls[service] = url.replace(f"/{accounts.database_of(service)}?", f"/forged_{service}?")
        migrate.apply(service, urls[service])
    return urls


@pytest.fixture
def forged(forged_urls: Mapping[str, str]) -> dict[str, str]:
    """The variables that lead ``vv audit`` to the forged books."""
    return {f"{service.upper()}_DATABASE_URL": url for service, url in forged_urls.items()}


@pytest.fixture
def forger(forged_urls: Mapping[str, str]) -> Iterator[Forger]:
    """Starts with one order that is as it should be."""
    with ExitStack() as stack:
        forger = Forger({service: stack.enter_context(closing(connect(url))) for service, url in forged_urls.items()})
        forger.wipe()
        forger.completed()
        yield forger


def connect(url: str) -> "pymysql.Connection[Any]":
    address = parse_database_url(url)
    return pymysql.connect(database=address.pop("db"), autocommit=True, **address)


class TestAudit:
    def test_real_books_are_clean(self, books: Books, services: Services, migrated: Databases) -> None:
        """Whatever the tests did so far; the services' own accounts are enough to audit."""
        assert all(service.is_ready() for service in services.all)
        books.settle()
        environment = {f"{service.upper()}_DATABASE_URL": url for service, url in migrated.service_urls.items()}
        report = document(run(environment, "audit", "--json"))
        assert (report["clean"], report["violations"], report["invariants"]) == (True, [], NAMES)

    def test_text_has_a_line_for_each_invariant(self, forger: Forger, forged: dict[str, str]) -> None:
        """Each by its name and ok; what violates one is below it, and the exit code is 1."""
        clean = run(forged, "audit")
        assert (clean.returncode, clean.stderr) == (0, "")
        assert [line.split() for line in clean.stdout.splitlines()[1:-1]] == [["ok", name] for name in NAMES]
        double_charge(forger)
        found = run(forged, "audit")
        assert found.returncode == 1
        assert [line.split()[1] for line in found.stdout.splitlines() if "VIOLATED" in line] == [
            "nobody_is_charged_twice"
        ]
        assert "the gateway charged it 2 times: [700, 700]" in found.stdout

    def test_every_invariant_is_tried(self) -> None:
        """No invariant without a violation that it finds."""
        assert list(PLANTED) == NAMES

    @pytest.mark.parametrize("name", PLANTED)
    def test_violation_is_found_by_its_name(
        self, name: str, forger: Forger, forged: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Exactly the invariant that was violated is reported, once, and the exit code is 1."""
        monkeypatch.setattr("vv.audit._SECOND_LOOK_AFTER_S", 0)
        PLANTED[name](forger)
        result = CliRunner(env=forged).invoke(main, ["audit", "--json"])
        report = json.loads(result.stdout)
        assert (result.exit_code, report["clean"]) == (1, False)
        assert [violation["invariant"] for violation in report["violations"]] == [name]
        assert all(violation[key] for violation in report["violations"] for key in ("subject", "problem", "rows"))

    def test_database_that_cannot_be_reached_is_exit_code_3(self, forged: dict[str, str]) -> None:
        """No verdict is not a clean one; the password is not shown."""
        ended = run({**forged, "PAYMENT_DATABASE_URL": "mysql://u:TopSecret@127.0.0.1:1/d"}, "audit")
        assert (ended.returncode, ended.stdout) == (3, "")
        assert "TopSecret" not in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_some_of_the_databases_are_exit_code_2(self, forged: dict[str, str]) -> None:
        """It names the variable that is missing."""
        del forged["PAYMENT_DATABASE_URL"]
        ended = run(forged, "audit")
        assert ended.returncode == 2
        assert "PAYMENT_DATABASE_URL" in ended.stderr
