"""The report over all runs: for the terminal, and between two markers in ``docs/reliability.md``."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.harness.mutations import Trial
from tests.faults.harness.result import Result
from vv.folder import write_whole

BEGIN = "<!-- Written by the fault harness, --write: begin -->"
END = "<!-- Written by the fault harness, --write: end -->"
TRIALS_BEGIN = "<!-- Written by the fault harness, --mutations --write: begin -->"
TRIALS_END = "<!-- Written by the fault harness, --mutations --write: end -->"
# Violations of a kind that are shown, and characters of a row; all of them are in the result of the run.
_SHOWN = 3
_ROW = 600
Rows = list[tuple[str, str]]


def summary(results: Sequence[Result]) -> Rows:
    """What was done and found, a line each."""
    orders, hit, hits = (_added(results, name) for name in ("orders_by_status", "hit", "hits"))
    unknown, outcomes = _added(results, "unknown"), _outcomes(results)
    inflicted = sum(_added(results, "inflicted").values())
    return [
        ("seeds", f"{len(results)} ({', '.join(str(result.seed) for result in results)})"),
        ("orders", f"{sum(orders.values()):,}: {_listed(orders)}"),
        ("operations of buyers", f"{sum(outcomes.values()):,}: {_listed(outcomes)}"),
        ("faults that hit something", f"{sum(hit.values()):,} of {inflicted:,}, {sum(hits.values()):,} times in all"),
        ("orders whose buyer never heard the end", f"{sum(unknown.values()):,}, all resolved: {_listed(unknown)}"),
        ("accepted or cancelled, until final", _quantiles([s for one in results for s in one.unfinished_s])),
        (
            "unfinished at the end of the faults, until final",
            _quantiles([s for one in results for s in one.recovered_s]),
        ),
        ("from the last fault until nothing was unfinished", _quantiles([one.settled_s for one in results])),
        ("audits while traffic flowed and faults happened", f"{sum(one.audits for one in results):,}"),
        ("violations", f"{sum(len(one.violations) for one in results):,}"),
    ]


def faults(results: Sequence[Result]) -> list[tuple[str, str, str, str]]:
    """A line for each kind of fault: how often it was inflicted, how often that hit something, and how much."""
    inflicted, hit, hits = (_added(results, name) for name in ("inflicted", "hit", "hits"))
    return [(name, f"{count:,}", f"{hit[name]:,}", f"{hits[name]:,}") for name, count in sorted(inflicted.items())]


def show(results: Sequence[Result], console: Console) -> None:
    """Print the whole report, with each violation and the command that plays it again."""
    table = Table(title="Faults", title_justify="left")
    for name in _FAULT_COLUMNS:
        table.add_column(name, justify="left" if name == _FAULT_COLUMNS[0] else "right")
    for row in faults(results):
        table.add_row(*row)
    console.print(table)
    for name, value in summary(results):
        console.print(f"{name}: {value}", highlight=False, markup=False)
    for result in results:
        if not result.is_clean:
            console.print("\n".join(complaint(result)), highlight=False, markup=False, soft_wrap=True)


def complaint(result: Result) -> list[str]:
    """The violations of a run, the first of each kind in full, and how to play it again."""
    kinds = Counter(one.invariant for one in result.violations)
    lines = [f"\nSeed {result.seed}: {len(result.violations)} violations ({_listed(kinds)})"]
    for kind in kinds:
        for one in [one for one in result.violations if one.invariant == kind][:_SHOWN]:
            lines.append(f"  {one.invariant}: {one.subject} {one.problem}")
            lines += [f"    {row[:_ROW]}" for row in one.rows.splitlines()]
    return [*lines, f"Its history and logs: {result.folder}", f"Again: {result.command}"]


def verdict(trial: Trial) -> str:
    """Whether, when and by what the loss of a mechanism was noticed, in a line."""
    kinds = Counter(one.invariant for one in trial.runs[-1].violations)
    orders = sum(run.orders for run in trial.runs)
    if trial.is_caught:
        return f"caught: {trial.mutation.name}, after {orders} orders, by {_listed(kinds)}"
    reason = trial.mutation.unnoticed_because
    verdict, why = ("not noticed", reason) if reason else ("NOT CAUGHT", trial.runs[-1].command)
    return f"{verdict}: {trial.mutation.name}, in {orders} orders; {why}"


def write(page: Path, results: Sequence[Result], command: str) -> None:
    """Put the report into the page. Raises ValueError when it has no place for it."""
    found = grid(("", ""), summary(results))
    _put(page, BEGIN, END, f"```\n{command}\n```\n\n{found}\n\n{grid(_FAULT_COLUMNS, faults(results))}")


def write_trials(page: Path, trials: Sequence[Trial], command: str) -> None:
    """Put the table of mutations into the page. Raises ValueError when it has no place for it."""
    rows = [(trial.mutation.name, trial.mutation.needed_because, _noticed(trial)) for trial in trials]
    table = grid(("without", "what goes wrong", "noticed"), rows)
    _put(page, TRIALS_BEGIN, TRIALS_END, f"```\n{command}\n```\n\n{caught(trials)}\n\n{table}")


def caught(trials: Sequence[Trial]) -> str:
    """How many of the mutations were caught, and how many no run can notice."""
    missed = [trial for trial in trials if not trial.is_caught]
    known = sum(trial.is_as_expected for trial in missed)
    others = f"of the others no run can notice {known}, and {len(missed) - known} should have been caught"
    return f"Mutations caught: {len(trials) - len(missed)} of {len(trials)} tried; {others}."


def _noticed(trial: Trial) -> str:
    kinds = Counter(one.invariant for one in trial.runs[-1].violations)
    if trial.is_caught:
        return ", ".join(f"`{kind}`" for kind, _ in kinds.most_common(2))
    return f"no: {trial.mutation.unnoticed_because or 'although it should be'}"


def _put(page: Path, begin: str, end: str, text: str) -> None:
    before, first, rest = page.read_text(encoding="utf-8").partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"{page} has no place for the report; put these two lines into it: {begin} and {end}")
    write_whole(page, f"{before}{begin}\n\n{text}\n\n{end}{after}", mode=0o644)


def grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *lines])


_FAULT_COLUMNS = ("fault", "inflicted", "hit something", "times in all")


def _added(results: Sequence[Result], counter: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for result in results:
        total.update(getattr(result, counter))
    return total


def _outcomes(results: Sequence[Result]) -> Counter[str]:
    """The operations by outcome, whatever their kind."""
    total: Counter[str] = Counter()
    for kind, count in _added(results, "outcomes").items():
        total[kind.rsplit(" ", 1)[1]] += count
    return total


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common() if count)


def _quantiles(seconds: Sequence[float]) -> str:
    if not seconds:
        return "nothing"
    ordered = sorted(seconds)
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99))
    return f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {ordered[-1]:.2f} s ({len(ordered):,})"
