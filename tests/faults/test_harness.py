"""A short run of the fault harness, and that it turns red when a safety mechanism is gone."""

import ast
import os
import random
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.harness import checks
from tests.faults.harness.campaign import CHECKOUT, play_apart
from tests.faults.harness.evidence import Evidence
from tests.faults.harness.faults import FAULTS
from tests.faults.harness.history import History, Kind, Outcome, load
from tests.faults.harness.mutations import MUTATIONS, Edit, mutated, try_without
from tests.faults.harness.nemesis import NONE
from tests.faults.harness.plan import Plan
from tests.faults.harness.report import BEGIN, END, TRIALS_BEGIN, TRIALS_END, complaint, summary
from tests.faults.harness.result import Result
from tests.faults.harness.shop import PROFILES, Shop

# Noticed within seconds, by the buyers' log alone.
QUICK = ("unique key of the stock ledger", "unknown charge is not declined")
# The same in all processes of a run, or they would collect different tests.
FRESH = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID")).randint(1_000, 999_999)
# 6: the clock of the database was set back by an hour, and what was under way waited for an hour.
SHORT_RUNS = [
    Plan(6, seconds=8, buyers=48, per_second=80, faults=("clock-database", "kill-order")),
    Plan(FRESH, seconds=15, buyers=96, per_second=100),
]


@pytest.mark.usefixtures("own_server")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("plan", SHORT_RUNS, ids=lambda plan: f"seed-{plan.seed}")
def test_promises_hold_whatever_goes_wrong(plan: Plan) -> None:
    """Buyers and faults, then the books: nothing is lost, and what is found can be played again."""
    result = play_apart(plan)
    assert result.is_clean, "\n".join(complaint(result))
    assert result.orders > 20
    assert sum(result.hit.values()) > 0


@pytest.mark.usefixtures("own_server")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUICK)
def test_harness_notices_the_loss_of(name: str) -> None:
    """Without a safety mechanism the harness turns red."""
    trial = try_without(MUTATIONS[name], seed=1)
    assert trial.is_caught, complaint(trial.runs[-1])


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_applies(name: str) -> None:
    """What a mutation edits is there exactly once, and is Python still; its faults and buyers exist."""
    mutation = MUTATIONS[name]
    for edit in mutation.edits:
        text = (CHECKOUT / edit.file).read_text(encoding="utf-8")
        assert text.count(edit.old) == 1, edit
        if edit.file.endswith(".py"):
            ast.parse(text.replace(edit.old, edit.new))
    assert set(mutation.faults) <= {*FAULTS, *NONE}
    assert mutation.profile in PROFILES


def test_mutations_leave_the_tree_alone() -> None:
    """Only a copy is edited."""
    mutation = MUTATIONS[QUICK[0]]
    file = mutation.edits[0].file
    before = (CHECKOUT / file).read_text(encoding="utf-8")
    with mutated(mutation) as copy:
        assert (copy / file).read_text(encoding="utf-8") != before
    assert (CHECKOUT / file).read_text(encoding="utf-8") == before
    assert not copy.exists()


def test_an_edit_that_does_not_apply_is_refused(tmp_path: Path) -> None:
    """Code that was changed since is noticed, not passed over."""
    (tmp_path / "file.py").write_text("a = 1\na = 1\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="2 times: a = 1"):
        Edit("file.py", "a = 1", "a = 2").apply(tmp_path)


def test_a_seed_draws_the_same_wishes_again() -> None:
    """Whatever is chance comes from the seed."""
    first, again, other = (
        [Shop(1, PROFILES["usual"]).order(random.Random(seed), "ada") for _ in range(3)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_plan_is_its_command() -> None:
    """The command of a run names whatever is not usual."""
    plan = Plan(7, seconds=20, buyers=32, faults=("kill-order", "kill-payment"), profile="carts")
    assert plan.command == (
        "python -m tests.faults.harness --seed 7 --seconds 20 --buyers 32 --profile carts "
        "--only kill-order --only kill-payment"
    )
    shown = subprocess.run(
        [sys.executable, "-m", "tests.faults.harness", "--help"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(word in shown for word in plan.arguments if word.startswith("--"))


def test_history_outlives_its_process(tmp_path: Path) -> None:
    """What was sent is in the file before its reply is there, and counts as unknown until then."""
    history = History(tmp_path / "history.jsonl")
    first = history.begin(Kind.ORDER, "ada", "POST", "/orders", {"total_amount": 5}, "key")
    history.end(first, 201, {"order_id": "1"})
    history.begin(Kind.READ, "1", "GET", "/orders/1", None, None)
    [answered, sent] = load(tmp_path / "history.jsonl")
    assert answered == first
    assert (sent.outcome, sent.ended_at) == (Outcome.UNKNOWN, None)
    history.close()


@pytest.mark.parametrize(
    ("status", "reply", "outcome"),
    [
        (202, {}, Outcome.OK),
        (409, {"retryable": False}, Outcome.REFUSED),
        (409, {"retryable": True}, Outcome.UNKNOWN),
        (404, {}, Outcome.UNKNOWN),
        (503, {"retryable": True}, Outcome.UNKNOWN),
        (0, {"error": "reset"}, Outcome.UNKNOWN),
    ],
)
def test_only_a_definite_refusal_is_one(status: int, reply: dict[str, bool], outcome: Outcome, tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    operation = history.begin(Kind.ORDER, "ada", "POST", "/orders", None, None)
    history.end(operation, status, reply)
    history.close()
    assert operation.outcome is outcome


def test_an_order_that_was_answered_and_is_gone_is_found(tmp_path: Path) -> None:
    """The buyers' log knows of orders that no table has any more."""
    history = History(tmp_path / "history.jsonl")
    body = {
        "user_id": "ada",
        "sku": "A",
        "quantity": 1,
        "total_amount": 5,
        "currency": "USD",
        "payment_method": "tok_ok",
    }
    operation = history.begin(Kind.ORDER, "ada", "POST", "/orders", body, "key")
    history.end(operation, 201, {"order_id": "1", "status": "completed"})
    history.close()
    seen = Evidence(history.operations, {"A": 5}, {}, {}, {}, {"A": 4}, {}, frozenset())
    assert {one.invariant for one in checks.violations(seen)} == {
        "accepted_orders_are_there",
        "reads_never_contradict",
        "units_add_up",
    }


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    """Runs in processes of their own can be added up."""
    result = Result(3, "again", orders=2, unfinished_s=[0.25, 4.0], hit=Counter({"kill-order": 2}))
    result.save(tmp_path / "result.json")
    loaded = Result.load(tmp_path / "result.json")
    assert loaded == result
    assert ("violations", "0") in summary([loaded, loaded])


def test_page_has_a_place_for_the_report() -> None:
    page = (CHECKOUT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [page.count(mark) for mark in (BEGIN, END, TRIALS_BEGIN, TRIALS_END)] == [1, 1, 1, 1]


def test_table_of_mutations_says_why() -> None:
    """Each mechanism says what goes wrong without it; the table has no key that nobody reads."""
    table = tomllib.loads((CHECKOUT / "tests/faults/harness/mutations.toml").read_text(encoding="utf-8"))
    assert list(table) == ["mutation"]
    assert all(mutation.needed_because for mutation in MUTATIONS.values())
    assert len(MUTATIONS) == len(table["mutation"])
