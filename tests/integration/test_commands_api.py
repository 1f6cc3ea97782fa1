"""`vv order`, `vv stock` and `vv payment` against the real services."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from tests.processes import Services
from vv.__main__ import main

Vv = Callable[..., Result]
NOBODY = "0192f0c1-2345-7abc-8def-0123456789ab"


@pytest.fixture
def vv(services: Services) -> Vv:
    environment = {
        "ORDER_URL": services.order.url,
        "INVENTORY_URL": services.inventory.url,
        "PAYMENT_URL": services.payment.url,
    }

    def run(*arguments: str, **changes: str | None) -> Result:
        return CliRunner(env=environment | changes).invoke(main, arguments)

    return run


@pytest.fixture
def sku(vv: Vv) -> str:
    name = f"CLI-{uuid4().hex[:12]}"
    assert vv("stock", "create", name, "--product", "cli", "--quantity", "10").exit_code == 0
    return name


def fields(result: Result) -> dict[str, str]:
    assert result.exit_code == 0, result.output
    return {name: value for name, _, value in (line.partition("  ") for line in result.stdout.splitlines())}


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def place(vv: Vv, sku: str, *more: str) -> dict[str, Any]:
    return document(vv("order", "create", "--user", "ada", "--sku", sku, "--amount", "1999", "--json", *more))


def test_an_order_for_people_to_read(vv: Vv, sku: str) -> None:
    """An order prints as a field a line, with its amount in the currency's own digits."""
    created = vv("order", "create", "--user", "ada", "--sku", sku, "--quantity", "2", "--amount", "1999")

    found = {name: value.strip() for name, value in fields(created).items()}
    assert (found["status"], found["amount"], found["items"]) == ("completed", "19.99 USD", f"2 x {sku}")


def test_a_cart_sums_the_lines_of_a_sku(vv: Vv, sku: str) -> None:
    """--item may be repeated, also for the same SKU."""
    cart = ["--item", f"{sku}=1", "--item", f"{sku}=2"]

    order = document(vv("order", "create", "--user", "ada", *cart, "--amount", "5", "--json"))

    assert order["items"] == [{"sku": sku, "quantity": 3}]


def test_the_life_of_an_order(vv: Vv, sku: str) -> None:
    """Placing, reading, cancelling and its money and stock, each as the JSON of the contract."""
    order_id = place(vv, sku)["order_id"]

    assert document(vv("order", "get", order_id, "--json"))["status"] == "completed"
    assert document(vv("payment", "get", order_id, "--json"))["status"] == "captured"
    assert document(vv("order", "cancel", order_id, "--json"))["status"] == "cancelled"
    assert document(vv("payment", "get", order_id, "--json"))["refunded_amount"] == 1999
    statuses = [event["status"] for event in document(vv("order", "events", order_id, "--json"))["events"]]
    assert statuses[0] == "created"
    assert statuses[-1] == "cancelled"


def test_lists_are_json_lines_or_a_table(vv: Vv, sku: str) -> None:
    """With --json a list is one document a line, newest first; without it has a heading; --limit limits both."""
    user = f"user-{uuid4().hex[:12]}"
    placed = [place(vv, sku, "--user", user)["order_id"] for _ in range(3)]

    as_json = vv("order", "list", "--user", user, "--limit", "2", "--json")
    as_table = vv("order", "list", "--user", user, "--status", "completed")

    listed = [json.loads(line)["order_id"] for line in as_json.stdout.splitlines()]
    assert listed == [placed[2], placed[1]]
    heading, *rows = as_table.stdout.splitlines()
    assert heading.split()[:2] == ["ORDER", "STATUS"]
    assert [row.split()[0] for row in rows] == placed[::-1]


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_list_that_is_cut_off_says_so(as_json: list[str], vv: Vv, sku: str) -> None:
    """There are more than --limit: standard error says so and how to see them, standard output has the list alone."""
    user = f"user-{uuid4().hex[:12]}"
    for _ in range(3):
        place(vv, sku, "--user", user)
    orders = ["order", "list", "--user", user, *as_json]
    headings = 0 if as_json else 1

    cut, exactly, everything = vv(*orders, "--limit", "2"), vv(*orders, "--limit", "3"), vv(*orders, "--all")

    assert cut.stderr == "There are more than 2; --limit shows more of them, --all every one.\n"
    assert [len(result.stdout.splitlines()) - headings for result in (cut, exactly, everything)] == [2, 3, 3]
    assert (exactly.stderr, everything.stderr) == ("", "")
    ledger = vv("stock", "ledger", sku, "--limit", "3", *as_json)
    assert ledger.stderr.startswith("There are more than 3;")
    assert len(vv("stock", "ledger", sku, "--all", *as_json).stdout.splitlines()) - headings == 4


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_reader_who_has_seen_enough(as_json: list[str], vv: Vv, sku: str, services: Services) -> None:
    """`vv order list | head`: the list ends where its reader does, without a complaint."""
    place(vv, sku)
    reader, writer = os.pipe()
    os.close(reader)

    ended = subprocess.run(
        [sys.executable, "-m", "vv", "order", "list", *as_json],
        env=os.environ | {"ORDER_URL": services.order.url},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )

    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_stock_is_added_and_its_ledger_read(vv: Vv, sku: str) -> None:
    """A restock changes the stock once for a request id, and the ledger shows it."""
    for _ in range(2):
        assert vv("stock", "add", sku, "--quantity", "5", "--request-id", f"truck-{sku}").exit_code == 0

    assert document(vv("stock", "get", sku, "--json"))["quantity"] == 15
    ledger = [json.loads(line) for line in vv("stock", "ledger", sku, "--json").stdout.splitlines()]
    assert [(entry["kind"], entry["delta"]) for entry in ledger] == [("restock", 5), ("create", 10)]


def test_a_part_of_the_money_goes_back(vv: Vv, sku: str) -> None:
    """A refund of an amount gives back just that."""
    order_id = place(vv, sku)["order_id"]

    refund = document(vv("payment", "refund", order_id, "--amount", "500", "--json"))

    assert refund["refunded_amount"] == 500


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["order", "get", NOBODY], "order_not_found"),
        (["order", "get", "../payments"], "invalid_request"),
        (["payment", "get", NOBODY], "payment_not_found"),
        (["stock", "get", "no such SKU"], "sku_not_found"),
        (["stock", "add", "book", "--quantity", "0"], "invalid_request"),
    ],
)
def test_a_refusal_exits_with_1(vv: Vv, arguments: list[str], code: str) -> None:
    """A definite no is a sentence on stderr with its code, or with --json its problem document; stdout stays empty."""
    result, as_json = vv(*arguments), vv(*arguments, "--json")

    assert (result.exit_code, as_json.exit_code) == (1, 1)
    assert (result.stdout, as_json.stdout) == ("", "")
    assert result.stderr.startswith("Error: ")
    assert code in result.stderr
    assert json.loads(as_json.stderr)["code"] == code


def test_out_of_stock_and_declined_exit_with_1(vv: Vv, sku: str) -> None:
    """Orders that fail for good are refusals, and name the request that the logs have."""
    too_many = vv("order", "create", "--user", "ada", "--sku", sku, "--quantity", "11", "--amount", "5")
    declined = vv("order", "create", "--user", "ada", "--sku", sku, "--amount", "5", "--payment-method", "tok_declined")

    assert (too_many.exit_code, declined.exit_code) == (1, 1)
    assert "(out_of_stock, request " in too_many.stderr
    assert "(payment_declined, request " in declined.stderr


@pytest.mark.parametrize("cause", [["--quantity", "11"], ["--payment-method", "tok_declined"]])
def test_an_order_that_fails_is_named(cause: list[str], vv: Vv, sku: str) -> None:
    """Its id is on stderr, and in the problem document: it is there, and can be looked at."""
    create = ["order", "create", "--user", "ada", "--sku", sku, "--amount", "5", *cause]
    for_people, as_json = vv(*create), vv(*create, "--json")

    order_id = for_people.stderr.partition("The order is ")[2].partition(";")[0]
    assert f"vv order events {order_id}\n" in for_people.stderr
    assert for_people.stdout == ""
    for each in (order_id, json.loads(as_json.stderr)["order_id"]):
        assert document(vv("order", "get", each, "--json"))["status"] == "failed"


@pytest.mark.parametrize(
    "arguments",
    [
        ["order", "create", "--user", "ada", "--amount", "5"],
        ["order", "create", "--user", "ada", "--amount", "5", "--sku", "a", "--item", "b=1"],
        ["order", "create", "--user", "ada", "--amount", "5", "--item", "b=1", "--quantity", "2"],
        ["order", "create", "--user", "ada", "--amount", "5", "--item", "b"],
        ["order", "create", "--user", "ada", "--amount", "5", "--item", "b=-1"],
        ["order", "list", "--status", "lost"],
        ["order", "list", "--limit", "0"],
        ["order", "list", "--limit", "5", "--all"],
        ["stock", "get"],
    ],
)
def test_wrong_usage_exits_with_2(vv: Vv, arguments: list[str]) -> None:
    """What cannot be meant is refused before anything is sent."""
    assert vv(*arguments).exit_code == 2


def test_a_url_that_is_none_exits_with_2(vv: Vv) -> None:
    """The message shows the address that was given."""
    result = vv("order", "list", ORDER_URL="shop.test")

    assert result.exit_code == 2
    assert "'shop.test'" in result.stderr


def test_an_unknown_outcome_exits_with_3_and_says_how_to_repeat(vv: Vv, unused_tcp_port: int) -> None:
    """When no one knows whether the order was placed, the key with which to ask again is printed."""
    nowhere = f"http://127.0.0.1:{unused_tcp_port}"
    arguments = ["order", "create", "--user", "ada", "--sku", "book", "--amount", "5", "--idempotency-key", "k-1"]

    result, as_json = vv(*arguments, ORDER_URL=nowhere), vv(*arguments, "--json", ORDER_URL=nowhere)

    assert (result.exit_code, as_json.exit_code) == (3, 3)
    assert "service_unavailable" in result.stderr
    assert "--idempotency-key k-1" in result.stderr
    assert json.loads(as_json.stderr)["repeat_with"] == "--idempotency-key k-1"


def test_the_same_idempotency_key_places_one_order(vv: Vv, sku: str) -> None:
    """Repeating the command with its key prints the first order again."""
    key = f"key-{sku}"

    assert place(vv, sku, "--idempotency-key", key) == place(vv, sku, "--idempotency-key", key)


def test_a_stack_that_does_not_run_is_not_replaced_by_another(vv: Vv, tmp_path: Path) -> None:
    """Who names a data folder means that stack, and not the one on the default ports."""
    (tmp_path / "stack.json").write_text('{"order": "http://127.0.0.1:1"}')

    result = vv("order", "list", "--data-dir", str(tmp_path), ORDER_URL=None)

    assert result.exit_code == 3
    assert "No stack is running" in result.stderr
