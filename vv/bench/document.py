"""The measured part of ``docs/performance.md``: tables, command and machine between two markers, and the chart."""

from collections.abc import Sequence
from pathlib import Path

from vv.bench.chart import Bar, svg
from vv.bench.plan import MEASUREMENTS
from vv.bench.report import Grid, Report, by_measurement, figures_grid, medians, processes_grid, runs_grid
from vv.errors import Unavailable
from vv.folder import write_whole

BEGIN = "<!-- Written by vv bench --write: begin -->"
END = "<!-- Written by vv bench --write: end -->"
_TITLE = "Orders a second (the empty handler: requests)"
_KINDS = {"on": "on", "off": "off", "floor": "floor"}


def around_the_results(page: Path) -> tuple[str, str]:
    """What is before and after the place for results in the page. Raises Unavailable when it has none."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Unavailable(f"{page} has no place for results; put these two lines into it: {BEGIN} and {END}")
    return before, after


def write(page: Path, found: Report) -> None:
    """Put the results into the page and the chart next to it. Raises Unavailable when the page has no markers."""
    before, after = around_the_results(page)
    picture = page.with_suffix(".svg")
    write_whole(picture, svg(_TITLE, bars(found)), mode=0o644)
    write_whole(page, f"{before}{BEGIN}\n\n{markdown(found, picture.name)}\n{END}{after}", mode=0o644)


def markdown(found: Report, picture: str) -> str:
    """The results as they are in the page."""
    began = min((run.started_at for run in found.runs), default=None)
    rounds = max((run.round for run in found.runs), default=0)
    parts = [
        f"```\n{found.command}\n```",
        f"{began:%Y-%m-%d}, {rounds} rounds. " + "; ".join(f"{name}: {value}" for name, value in found.machine.items())
        if began
        else "",
        "Full tables hold " + f"{found.filled:,} orders." if found.filled else "",
        found.checked,
        "Settings that differ: " + ", ".join(f"`{name}={value}`" for name, value in found.settings.items())
        if found.settings
        else "",
        _table(figures_grid(found.values)),
        f"![{_TITLE}]({picture})",
        _table(runs_grid(found.runs)),
        "Milliseconds of CPU an order, and the most memory, by process:",
        _table(processes_grid(found.runs)),
        "\n".join(f"- {line}" for line in found.no_results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def bars(found: Report) -> list[Bar]:
    """A bar for each throughput: of what is neither alone nor held back."""
    groups = by_measurement(found.runs)
    shown = []
    for one in MEASUREMENTS:
        results = [run.per_second for run in groups.get(one.name, []) if run.no_result is None]
        if results and one.of_peak is None and one.clients > 1:
            middle = medians(groups[one.name])["per_second"]
            shown.append(Bar(one.label, _KINDS.get(one.server, "other"), middle, min(results), max(results)))
    return shown


def _table(grid: Grid) -> str:
    header, rows = grid
    return "\n".join(map(_line, [header, ["---"] * len(header), *rows]))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
