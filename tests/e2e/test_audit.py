"""``vv audit``: each violation is found under its name, and mended where that is safe; nothing else is reported."""

import asyncio
import json
import os
import pty
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from click.testing import CliRunner, Result

from common.clients import AsyncInventoryClient, AsyncOrderClient, AsyncPaymentClient, Order, OrderStatus, ServiceError
from tests.conftest import MakeSku
from tests.database_server import DatabaseServer
from tests.e2e.conftest import Books
from tests.e2e.test_cli import document, run
from tests.e2e.violations import (
    ALL,
    Planted,
    charge_that_the_gateway_does_not_know,
    charge_that_we_gave_up,
    double_charge,
    failed_order_that_is_charged,
    failed_order_that_keeps_its_stock,
    order_that_nobody_takes_up,
    stock_without_a_ledger_row,
)
from tests.forger import Forger, connect
from tests.gateway_process import GatewayProcess
from tests.processes import FAST_RECOVERY, ServiceProcess, Services
from vv.__main__ import main
from vv.audit import Report, audit, open_books
from vv.audit.fixes import PROPOSALS, propose
from vv.audit.repair import repair
from vv.audit.run import NAMES, QUIESCED_NAMES
from vv.databases import Databases

# For what is carried out in the databases alone.
NO_SERVICE = "http://127.0.0.1:1"
DONE_BEFORE = "That was done before and was not enough; nothing was changed. Look at the rows."


@pytest.fixture(scope="module")
def forged_urls(database_server: DatabaseServer) -> Iterator[dict[str, str]]:
    with database_server.further_stack("forged") as urls:
        yield urls


@pytest.fixture
def forged(forged_urls: Mapping[str, str]) -> dict[str, str]:
    """The variables that lead ``vv audit`` to the forged books."""
    return {f"{service.upper()}_DATABASE_URL": url for service, url in forged_urls.items()}


@pytest.fixture
def forger(forged_urls: Mapping[str, str]) -> Iterator[Forger]:
    with Forger.at(forged_urls) as forger:
        yield forger


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing moves in forged books, so that there is nothing to wait for."""
    monkeypatch.setattr("vv.audit.run._LOOK_AGAIN_AFTER_S", 0)


@pytest.fixture
def forged_payments(forged_urls: Mapping[str, str], tmp_path: Path) -> Iterator[ServiceProcess]:
    """A payment service with the forged books, which leaves to others what needs recovery."""
    settings = FAST_RECOVERY | {"PAYMENT_RECOVERY_INTERVAL_S": "60", "PAYMENT_DATABASE_URL": forged_urls["payment"]}
    service = ServiceProcess("payment", settings, tmp_path / "payment.log").start()
    try:
        yield service
    finally:
        service.stop()


def audit_in_process(environment: Mapping[str, str], *arguments: str) -> Result:
    return CliRunner(env=environment).invoke(main, ["audit", *arguments, "--json"])


def _outcomes(repaired: Result) -> list[str]:
    return [one["outcome"] for one in json.loads(repaired.stdout)["repairs"]]


class TestFinding:
    def test_every_invariant_is_tried(self) -> None:
        """No invariant without a violation that it finds, and without a proposal."""
        assert {planted.invariant for planted in ALL} == set(NAMES)
        assert set(PROPOSALS) == {*NAMES, *QUIESCED_NAMES}

    @pytest.mark.parametrize("planted", ALL, ids=str)
    @pytest.mark.usefixtures("at_once")
    def test_violation_is_found_and_mended(
        self, planted: Planted, forger: Forger, forged: dict[str, str], request: pytest.FixtureRequest
    ) -> None:
        """Exactly what was violated is reported, with its rows; what is proposed mends it, or nothing is changed."""
        subjects = planted.plant(forger)
        found = audit_in_process(forged)
        report = json.loads(found.stdout)
        if planted.invariant == "an_idempotency_key_makes_one_order":
            assert [one["subject"] for one in report["violations"]] == subjects.split()
        else:
            assert [one["subject"] for one in report["violations"]] == [subjects]
        assert {one["invariant"] for one in report["violations"]} == {planted.invariant}
        assert (found.exit_code, report["clean"]) == (1, False)
        assert report["found"] == {planted.invariant: len(report["violations"])}
        for violation in report["violations"]:
            assert violation["problem"]
            assert not set(violation["problem"]) & set("[]{}'"), "people do not read Python"
            assert violation["rows"]
            assert violation["proposal"]["sentence"].endswith(".")
            assert (violation["proposal"]["change"] is not None) == planted.mends

        if planted.invariant == "charged_orders_are_completed_or_refunded" and planted.mends:
            forged |= {"PAYMENT_URL": request.getfixturevalue("forged_payments").url}
        mended = audit_in_process(forged, "--repair", "--yes")
        assert (mended.exit_code, json.loads(mended.stdout)["clean"]) == ((0, True) if planted.mends else (1, False))

    @pytest.mark.usefixtures("at_once")
    def test_what_other_callers_do_is_no_violation(self, forger: Forger, forged: dict[str, str]) -> None:
        """Stock and money for order ids of a shop's own, and stock that was taken for an order and given back."""
        forger.captured()
        forger.stock("s", 5, left=5)
        forger.take("own-key", "s", str(uuid4()), left=4)
        order_id, sku = forger.completed()
        forger.take("other-key", sku, order_id, left=8)
        forger.take("other-key", sku, order_id, left=9, kind="rollback")
        forger.payment(str(uuid4()), "voided")
        cancelled = str(uuid4())
        forger.payment(cancelled, "pending", "cancelling", "voided")
        forger.execute(
            "payment",
            "INSERT INTO sandbox_gateway (gateway_key, kind, charge_key, amount, currency, approved) "
            "VALUES (%s, 'cancel', %s, 0, 'XXX', FALSE)",
            *[f"{cancelled}:charge"] * 2,
        )
        found = audit_in_process(forged)
        assert (found.exit_code, json.loads(found.stdout)["violations"]) == (0, [])

    @pytest.mark.usefixtures("at_once")
    def test_unfinished_work_is_a_violation_only_when_all_is_quiet(
        self, forger: Forger, forged: dict[str, str]
    ) -> None:
        """--quiesced demands that every order and every payment has come to its end."""
        order_id, _ = forger.taken("created")
        forger.payment(order_id, "pending")
        assert audit_in_process(forged).exit_code == 0
        report = json.loads(audit_in_process(forged, "--quiesced").stdout)
        assert {one["invariant"]: one["subject"] for one in report["violations"]} == dict.fromkeys(
            QUIESCED_NAMES, order_id
        )
        assert report["invariants"] == NAMES + QUIESCED_NAMES

    @pytest.mark.usefixtures("at_once")
    def test_overdue_is_what_was_left_for_longer_than_the_bound(self, forger: Forger, forged: dict[str, str]) -> None:
        """60 seconds unless --overdue-s says otherwise."""
        order_that_nobody_takes_up(forger)
        assert audit_in_process(forged).exit_code == 1
        assert audit_in_process(forged, "--overdue-s", "120").exit_code == 0

    @pytest.mark.usefixtures("at_once")
    def test_more_violations_than_fit_are_counted(
        self, forger: Forger, forged: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first of them have rows, all of them a number."""
        monkeypatch.setattr("vv.audit.run.KEPT_MAX", 3)
        for _ in range(5):
            double_charge(forger)
        report = json.loads(audit_in_process(forged).stdout)
        assert (len(report["violations"]), report["found"]) == (3, {"nobody_is_charged_twice": 5})

    @pytest.mark.usefixtures("at_once")
    def test_pages_end_where_the_next_one_begins(
        self, forger: Forger, forged: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With pages of two rows everything is seen, and once only."""
        for module in ("pages", "gateway_books", "books", "stock_books"):
            monkeypatch.setattr(f"vv.audit.{module}.PAGE", 2)
        monkeypatch.setattr("vv.audit.stock_books._LEDGER_PAGE", 2)
        for _ in range(4):
            forger.completed()
            forger.failed()
        hot = forger.completed()[1]
        for left in range(8, 0, -1):
            forger.take(f"r{left}", hot, None, left=left)
        clean = json.loads(audit_in_process(forged).stdout)
        assert (clean["violations"], clean["orders"], clean["payments"], clean["skus"]) == ([], 10, 6, 10)
        planted = [stock_without_a_ledger_row(forger), charge_that_we_gave_up(forger)]
        found = json.loads(audit_in_process(forged).stdout)["violations"]
        assert sorted(one["subject"] for one in found) == sorted(planted)


class TestGateway:
    """The books of a gateway that is a process of its own."""

    @pytest.fixture
    def gateway(self, tmp_path: Path) -> Iterator[GatewayProcess]:
        gateway = GatewayProcess(tmp_path).start()
        yield gateway
        gateway.stop()

    @pytest.fixture
    async def payments(
        self, gateway: GatewayProcess, forged_urls: Mapping[str, str], tmp_path: Path
    ) -> AsyncIterator[AsyncPaymentClient]:
        settings = {"PAYMENT_DATABASE_URL": forged_urls["payment"], "PAYMENT_GATEWAY_URL": gateway.url}
        service = ServiceProcess("payment", FAST_RECOVERY | settings, tmp_path / "payment.log").start()
        async with AsyncPaymentClient(service.url) as client:
            yield client
        service.stop()

    async def test_its_ledger_equals_ours_both_ways(
        self,
        gateway: GatewayProcess,
        payments: AsyncPaymentClient,
        forger: Forger,
        forged_urls: Mapping[str, str],
        monkeypatch: pytest.MonkeyPatch,
        at_once: None,
    ) -> None:
        """What it charged, refunded and declined is as we say; what we do not know of is found, page by page."""
        monkeypatch.setattr("vv.audit.gateway_books.PAGE", 2)
        order_ids = [str(uuid4()) for _ in range(6)]
        for order_id, method in zip(order_ids, ["tok_ok"] * 4 + ["tok_timeout", "tok_error"], strict=True):
            await payments.create(order_id=order_id, amount=700, payment_method=method)
        with pytest.raises(ServiceError):
            await payments.create(order_id=str(uuid4()), amount=700, payment_method="tok_declined")
        await payments.refund(order_id=order_ids[0], amount=100)
        for order_id in (order_ids[1], order_ids[5]):
            await payments.cancel(order_id)
        async with open_books(forged_urls, gateway_url=gateway.url) as books, asyncio.timeout(30):
            while (await audit(books, quiesced=True)).violations:
                await asyncio.sleep(0.1)
            async with aiohttp.ClientSession(gateway.url) as till:
                body = {"amount": 7, "currency": "USD", "payment_method": "tok_ok", "reference": "r"}
                await till.post("/charges", json=body, headers={"Idempotency-Key": "nobody"})
                body = {"charge_key": f"{order_ids[2]}:charge", "amount": 7, "currency": "USD"}
                await till.post("/refunds", json=body, headers={"Idempotency-Key": f"{order_ids[2]}:refund:1"})
            report = await audit(books)
            assert {violation.invariant: violation.subject for violation in report.violations} == {
                "the_gateway_refunded_what_we_did": order_ids[2],
                "gateway_entries_belong_to_a_payment": "nobody",
            }

    @pytest.mark.usefixtures("at_once")
    def test_charges_that_only_a_gateway_may_know_have_a_hint(
        self, gateway: GatewayProcess, forger: Forger, forged: dict[str, str]
    ) -> None:
        """Without a ledger to compare with it says so, and how to name one; with one there is nothing to hint at."""
        charge_that_the_gateway_does_not_know(forger)
        told = CliRunner(env=forged).invoke(main, ["audit"]).stdout
        assert told.splitlines()[-1].startswith("Hint: Payments were compared with the table of the sandbox,")
        assert told.endswith("vv audit --gateway-url URL\n")
        assert "gateway-url" in json.loads(audit_in_process(forged).stdout)["hint"]
        assert json.loads(audit_in_process(forged, "--gateway-url", gateway.url).stdout)["hint"] is None

    @pytest.mark.usefixtures("at_once")
    def test_other_violations_have_no_hint(self, forger: Forger, forged: dict[str, str]) -> None:
        """Where the gateway has nothing to do with it, it is not spoken of."""
        double_charge(forger)
        assert json.loads(audit_in_process(forged).stdout)["hint"] is None

    def test_a_gateway_that_does_not_answer_is_exit_code_3(self, forger: Forger, forged: dict[str, str]) -> None:
        """No verdict is not a clean one; the option is named."""
        ended = run(forged, "audit", "--gateway-url", NO_SERVICE)
        assert (ended.returncode, ended.stdout) == (3, "")
        assert f"The ledger of the gateway at {NO_SERVICE} could not be read" in ended.stderr
        assert "--gateway-url" in ended.stderr


class TestRepair:
    async def test_nothing_is_changed_that_is_not_as_it_was_seen(
        self, forger: Forger, forged_urls: Mapping[str, str], at_once: None
    ) -> None:
        """What was mended, or went on, after it was reported is left alone."""
        drifting, order_id = stock_without_a_ledger_row(forger), order_that_nobody_takes_up(forger)
        kept = failed_order_that_keeps_its_stock(forger)
        async with open_books(forged_urls) as books:
            report = await audit(books)
            forger.execute("inventory", "UPDATE inventory SET quantity = quantity + 5 WHERE sku = %s", drifting)
            forger.execute("order", "UPDATE orders SET version = version + 1 WHERE order_id = %s", order_id)
            forger.execute("inventory", "DELETE FROM stock_ledger WHERE order_id = %s", kept)
            outcomes = {
                violation.subject: await repair(books, violation, propose(violation), NO_SERVICE)
                for violation in report.violations
            }
        assert outcomes == {
            drifting: "The rows are no longer as they were seen; nothing was changed.",
            order_id: "The rows are no longer as they were seen; nothing was changed.",
            kept: "It holds by now; nothing was changed.",
        }
        [[quantity]] = forger.execute("inventory", "SELECT quantity FROM inventory WHERE sku = %s", drifting)
        assert quantity == 9 + 1 + 5

    @pytest.mark.usefixtures("at_once")
    def test_stock_that_somebody_holds_does_not_go_back_yet(
        self, forger: Forger, forged: dict[str, str], forged_urls: Mapping[str, str]
    ) -> None:
        """While another transaction has locked the SKU it says that nothing was changed; later it is mended."""
        order_id = failed_order_that_keeps_its_stock(forger)
        [[sku]] = forger.execute("order", "SELECT sku FROM order_lines WHERE order_id = %s", order_id)
        with closing(connect(forged_urls["inventory"])) as stranger, stranger.cursor() as cursor:
            stranger.begin()
            cursor.execute("SELECT * FROM inventory WHERE sku = %s FOR UPDATE", sku)
            tried = audit_in_process(forged, "--repair", "--yes")
            stranger.rollback()
        assert (tried.exit_code, _outcomes(tried)) == (
            1,
            [f"Somebody else holds the stock of {sku}. Nothing was changed; try again."],
        )
        mended = audit_in_process(forged, "--repair", "--yes")
        assert (mended.exit_code, _outcomes(mended)) == (0, ["Done."])

    @pytest.mark.usefixtures("at_once")
    def test_a_row_that_somebody_holds_keeps_no_other_repair_back(
        self,
        forger: Forger,
        forged: dict[str, str],
        forged_urls: Mapping[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Its own repair fails, and says why; what else was done is told."""
        monkeypatch.setattr("vv.audit.books._LOCK_WAIT_S", 1)
        held, free = sorted(stock_without_a_ledger_row(forger) for _ in range(2))
        with closing(connect(forged_urls["inventory"])) as stranger, stranger.cursor() as cursor:
            stranger.begin()
            cursor.execute("SELECT * FROM inventory WHERE sku = %s FOR UPDATE", held)
            tried = audit_in_process(forged, "--repair", "--yes")
            stranger.rollback()
        repairs = {one["subject"]: one["outcome"] for one in json.loads(tried.stdout)["repairs"]}
        assert (tried.exit_code, set(repairs), repairs[free]) == (1, {held, free}, "Done.")
        assert repairs[held].endswith("The audit that follows shows whether it was done.")
        assert audit_in_process(forged, "--repair", "--yes").exit_code == 0

    @pytest.mark.usefixtures("at_once")
    def test_a_part_that_went_back_before_is_not_called_done(self, forger: Forger, forged: dict[str, str]) -> None:
        """A rollback takes effect once: what it gave back too little stays, and it says so."""
        order_id = failed_order_that_keeps_its_stock(forger)
        [[sku]] = forger.execute("order", "SELECT sku FROM order_lines WHERE order_id = %s", order_id)
        deduct = f"{order_id}:deduct"
        forger.execute("inventory", "UPDATE stock_ledger SET delta = -2, quantity = 8 WHERE request_id = %s", deduct)
        forger.take(deduct, sku, order_id, left=9, kind="rollback")
        tried = audit_in_process(forged, "--repair", "--yes")
        assert (tried.exit_code, _outcomes(tried)) == (1, [DONE_BEFORE])

    @pytest.mark.usefixtures("at_once")
    def test_a_payment_that_is_refunded_in_part_is_not_called_done(
        self, forger: Forger, forged: dict[str, str], forged_payments: ServiceProcess
    ) -> None:
        """To the payment service it is settled, so that no money goes back, and it says so."""
        order_id, _ = forger.failed()
        forger.payment(order_id, "pending", "captured", "refunding", "refunded", refunded=100)
        forger.refund(order_id, 100)
        forger.gateway(order_id, "charge", "charge", 700)
        forger.gateway(order_id, "refund", "refund:1", 100)
        tried = audit_in_process(forged | {"PAYMENT_URL": forged_payments.url}, "--repair", "--yes")
        assert (tried.exit_code, _outcomes(tried)) == (1, [DONE_BEFORE])

    def test_a_correction_is_on_record(self, forger: Forger, forged: dict[str, str]) -> None:
        """The stock becomes what the ledger says, and a row of the ledger tells that it was put right."""
        sku = stock_without_a_ledger_row(forger)
        ended = run(forged, "audit", "--repair", "--yes")
        assert ended.returncode == 0
        assert "Change the stock by -1, to what the ledger says" in ended.stderr
        rows = forger.execute("inventory", "SELECT request_id, delta, quantity FROM stock_ledger WHERE sku = %s", sku)
        assert rows[-1][0].startswith("vv-audit:")
        assert rows[-1][1:] == (0, 9)

    def test_money_that_cannot_go_back_yet_stays_a_violation(self, forger: Forger, forged: dict[str, str]) -> None:
        """Without a payment service nothing is refunded, and it says so."""
        failed_order_that_is_charged(forger)
        ended = run({**forged, "PAYMENT_URL": NO_SERVICE}, "audit", "--repair", "--yes", "--json")
        [repaired] = json.loads(ended.stdout)["repairs"]
        assert ended.returncode == 1
        assert f"POST /payments/cancel at {NO_SERVICE} failed" in repaired["outcome"]

    def test_without_a_terminal_it_does_not_ask(self, forged: dict[str, str]) -> None:
        """It refuses in a sentence, before it has looked at anything."""
        ended = run(forged, "audit", "--repair")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "--repair asks before each repair, and standard input is no terminal; add --yes." in " ".join(
            ended.stderr.split()
        )

    @pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
    def test_on_a_terminal_it_asks(self, answer: str, code: int, forger: Forger, forged: dict[str, str]) -> None:
        """No is the default."""
        stock_without_a_ledger_row(forger)
        ours, theirs = pty.openpty()
        usual = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
        with subprocess.Popen(
            [sys.executable, "-m", "vv", "audit", "--repair"],
            env={**usual, **forged},
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            os.write(ours, f"{answer}\n".encode())
            _, said = process.communicate(timeout=60)
        os.close(ours)
        os.close(theirs)
        assert process.returncode == code
        assert "Do this? [y/N]" in said


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
        assert "the gateway charged it 2 times: 700, 700" in found.stdout

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


class TestTraffic:
    @pytest.fixture
    def dice(self) -> random.Random:
        return random.Random(7)

    async def test_there_is_no_false_alarm_while_traffic_flows(
        self,
        migrated: Databases,
        orders: AsyncOrderClient,
        inventory: AsyncInventoryClient,
        payments: AsyncPaymentClient,
        make_sku: MakeSku,
        dice: random.Random,
    ) -> None:
        """Orders, cancellations, refunds, restocks and lost replies, and audit after audit beside them."""
        skus = [await make_sku(20_000) for _ in range(3)]
        stop = asyncio.Event()
        done: list[Order] = []
        unsure: list[ServiceError] = []
        reports: list[Report] = []

        async def buy() -> None:
            while not stop.is_set():
                sku, method = dice.choice(skus), dice.choice(["tok_ok"] * 6 + ["tok_declined", "tok_timeout"])
                try:
                    order = await orders.create(user_id="u", sku=sku, total_amount=700, payment_method=method)
                    if order.status == OrderStatus.COMPLETED and dice.random() < 0.3:
                        await payments.refund(order_id=order.order_id, amount=dice.randint(1, 100))
                    if dice.random() < 0.3:
                        await orders.cancel(order.order_id)
                    if dice.random() < 0.1:
                        await inventory.increase(sku=sku, quantity=5, request_id=uuid4().hex)
                    done.append(order)
                except ServiceError as refusal:
                    unsure.extend([] if refusal.is_refusal else [refusal])

        buyers = [asyncio.create_task(buy()) for _ in range(16)]
        try:
            async with open_books(migrated.service_urls) as books:
                async with asyncio.timeout(60):
                    while len(reports) < 8 or len(done) < 500:
                        reports.append(await audit(books))
        finally:
            stop.set()
            await asyncio.gather(*buyers)
        assert [report.violations for report in reports] == [[]] * len(reports)
        assert unsure == []
