"""The benchmark's arithmetic: latencies, the plan, figures, tables, the chart, and the page that holds them."""

import json
import math
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uuid_utils
from hypothesis import given
from hypothesis import strategies as st

from vv.audit.books import first_order_id
from vv.bench import comparison, document, figures, latency, load, measure, plan, report, runs
from vv.bench.chart import Bar, svg
from vv.bench.load import Orders, Result
from vv.bench.report import Report
from vv.bench.runs import Run
from vv.errors import Unavailable

SVG = "{http://www.w3.org/2000/svg}"


def make_run(measurement: str = "hot_64_on", **changes: Any) -> Run:
    defaults: dict[str, Any] = {
        "measurement": measurement,
        "round": 1,
        "started_at": datetime(2026, 11, 22, tzinfo=UTC),
        "seconds": 10.0,
        "orders": 1_000,
        "replies": 990,
        "latencies": Counter({2_000: 990, 50_000: 10}),
        "late_ms": None,
        "rate": None,
        "cpu_s": {"order": 0.5, "database": 0.25, "wrk": 0.1},
        "memory_mb": {"order": 80.0, "database": 150.0},
        "no_result": None,
    }
    return Run(**(defaults | changes))


def make_report(made: list[Run]) -> Report:
    return Report(
        made, "The books were audited.", "vv bench", {"CPU": "one & only"}, {"ORDER_MAX_BATCH": "8"}, 5_000_000
    )


class TestLatencies:
    @given(
        st.dictionaries(st.integers(1, 5_000), st.integers(1, 20), min_size=1, max_size=40),
        st.integers(1, 8),
        st.integers(1_000, 50_000),
    )
    def test_what_wrk_adds_is_taken_away_again(self, true: dict[int, int], connections: int, duration: int) -> None:
        """The histogram is the one that was measured, whatever wrk 4 made of it."""
        requests = sum(true.values())
        corrected = as_wrk_corrects(true, requests, connections, duration)
        assert latency.uncorrected(corrected, requests, connections, duration) == Counter(true)

    def test_a_wrk_that_adds_nothing_is_believed(self) -> None:
        """Counts that agree with the number of requests are as they were measured."""
        assert latency.uncorrected({10: 1, 10_000: 3}, 4, 1, 1_000) == Counter({10: 1, 10_000: 3})

    def test_quantiles_are_values_that_were_seen(self) -> None:
        """The least latency that the wanted share does not exceed."""
        histogram = Counter({1_000: 98, 5_000: 1, 9_000: 1})
        assert latency.quantile_ms(histogram, 0.5) == 1
        assert latency.quantile_ms(histogram, 0.99) == 5
        assert latency.summary_ms(histogram) == {"p50": 1, "p90": 1, "p99": 5, "p99.9": 9, "max": 9}

    def test_nothing_has_no_quantile(self) -> None:
        """No number is made up for a run without a reply."""
        assert math.isnan(latency.quantile_ms({}, 0.5))

    def test_histograms_add_up(self) -> None:
        """Slices of a run are one run."""
        assert latency.merged([{1: 2}, {1: 3, 7: 1}]) == {1: 5, 7: 1}


def as_wrk_corrects(true: dict[int, int], requests: int, connections: int, duration: int) -> dict[int, int]:
    """What ``stats_correct`` of wrk 4 does to a histogram."""
    counts = Counter(true)
    if requests // connections == 0:
        return counts
    interval = duration // (requests // connections)
    for slow in sorted(value for value in true if value >= 2 * interval):
        for guess in range(slow - interval, interval, -interval):
            counts[guess] += true[slow]
    return counts


class TestPlan:
    def test_names_are_unique_and_servers_exist(self) -> None:
        """A name after --only means one measurement, and each measurement has a server."""
        names = [one.name for one in plan.MEASUREMENTS]
        assert len(names) == len(set(names))
        assert {one.server for one in plan.MEASUREMENTS} == {*plan.STACKS, plan.FLOOR}

    def test_each_figure_is_of_measurements_in_the_plan(self) -> None:
        """No figure waits for a run that is never made, and each has one bound."""
        names = {one.name for one in plan.MEASUREMENTS}
        for figure in figures.FIGURES:
            assert set(figure.measurements) <= names
            assert (figure.at_least is None) != (figure.at_most is None)

    def test_selection_by_pattern_keeps_the_order(self) -> None:
        """Patterns are those of file names."""
        assert [one.name for one in plan.select(["floor_*", "hot_64_on"])] == ["hot_64_on", "floor_64", "floor_256"]
        assert plan.select(["nothing"]) == []
        assert plan.select(["*"]) == list(plan.MEASUREMENTS)

    def test_half_of_peak_brings_a_peak_along(self) -> None:
        """There is no half without a whole."""
        assert [one.name for one in plan.select(["half_of_peak_on"])] == ["hot_256_on", "half_of_peak_on"]
        assert [one.name for one in plan.select(["half_*", "hot_64_on"])] == ["hot_64_on", "half_of_peak_on"]

    def test_slices_take_turns(self) -> None:
        """What differs little alternates within a round; everything else is in one piece."""
        blocks = [[one.name for one in block] for block in plan.turns(plan.MEASUREMENTS)]
        assert [block for block in blocks if len(block) > 1] == [
            ["hot_256_on", "hot_256_traced"],
            ["alone_on", "alone_off"],
        ]


class TestLoad:
    SAID: ClassVar[dict[str, Any]] = {
        "requests": 3,
        "duration_us": 2_000_000,
        "errors": {"connect": 0, "read": 0, "write": 0, "timeout": 2, "status": 0},
        "latencies": [1_000, 2, 4_000, 1],
    }

    def test_summary_is_found_among_what_wrk_says(self) -> None:
        """The line of JSON counts; errors are those kinds that there were."""
        said = load._summary_in(f"Running 2s test\n  3 requests\n{json.dumps(self.SAID)}")
        result = load._result(said, 1, 0.5)
        assert (result.replies, result.seconds, result.errors, result.cpu_s) == (3, 2.0, {"timeout": 2}, 0.5)
        assert result.latencies == {1_000: 2, 4_000: 1}
        assert result.planned is None

    def test_open_loop_has_a_plan_and_lateness(self) -> None:
        """How many orders were due, and how late they were sent."""
        result = load._result(self.SAID | {"planned": 4, "lateness": [0, 3]}, 1, 0.5)
        assert (result.planned, result.lateness) == (4, {0: 3})

    def test_no_summary_is_an_error_that_shows_what_wrk_said(self) -> None:
        """A script that fails leaves wrk running, without the line."""
        with pytest.raises(Unavailable, match=r"orders\.lua: no such file"):
            load._summary_in("orders.lua: no such file")

    def test_skus_have_names_of_one_width(self) -> None:
        """Requests of one load are equally long."""
        assert Orders("r", "SKU").sku_names == ["SKU"]
        names = Orders("r", "SKU", skus=1_000).sku_names
        assert (len(set(names)), len(set(map(len, names))), names[-1]) == (1_000, 1, "SKU-0999")


class TestRuns:
    GOOD: ClassVar[dict[str, Any]] = {
        "replies": 10,
        "seconds": 1.0,
        "errors": {},
        "latencies": Counter({1: 10}),
        "cpu_s": 0.0,
    }

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({}, None),
            (
                {"errors": {"status": 3, "timeout": 1}},
                "not every order was answered with success: 3 status errors, 1 time",
            ),
            ({"replies": 0}, "no order was answered"),
            ({"planned": 10, "lateness": Counter({1_999: 10})}, None),
            ({"planned": 11, "lateness": Counter()}, "of 11 orders 10 were answered"),
            ({"planned": 10, "lateness": Counter({0: 9, 6_500: 1})}, "the load generator was late, by 6.5 ms"),
        ],
    )
    def test_what_makes_a_run_no_result(self, changes: dict[str, Any], problem: str | None) -> None:
        """Any error, and a load generator that was itself too late."""
        found = runs._what_went_wrong(Result(**(self.GOOD | changes)))
        assert (found is None) if problem is None else (found or "").startswith(problem)

    def test_slices_make_one_run(self) -> None:
        """Sums of orders, seconds, latencies and CPU, the largest memory, and the first reason for no result."""
        other = make_run(memory_mb={"order": 90.0, "database": 140.0}, no_result="the books are wrong")
        whole = runs.merged([make_run(), other])
        assert (whole.orders, whole.seconds, whole.latencies[2_000]) == (2_000, 20.0, 1_980)
        assert (whole.cpu_s["order"], whole.memory_mb) == (1.0, {"order": 90.0, "database": 150.0})
        assert whole.no_result == "the books are wrong"

    def test_cpu_is_counted_by_the_order(self) -> None:
        """In milliseconds."""
        assert make_run().cpu_ms == {"order": 0.5, "database": 0.25, "wrk": 0.1}

    def test_this_process_uses_cpu_and_memory(self) -> None:
        """What /proc says of a process that works grows."""
        pids = {"test": os.getpid()}
        before = measure.cpu_s_of(pids)["test"]
        sum(n * n for n in range(2_000_000))
        assert measure.cpu_s_of(pids)["test"] > before
        assert 10 < measure.peak_memory_mb_of(pids)["test"] < 10_000

    def test_process_that_ended_is_named(self) -> None:
        """Numbers of a process that is gone are none."""
        with pytest.raises(Unavailable, match="The order process"):
            measure.cpu_s_of({"order": 2**22 + 1})


class TestFigures:
    def test_ratio_is_taken_within_each_round(self) -> None:
        """The median of the rounds, not a ratio of medians; the machine is not the same from round to round."""
        made = [
            *(make_run("hot_64_on", round=n, orders=orders) for n, orders in enumerate((400, 900, 500), start=1)),
            *(make_run("hot_64_off", round=n, orders=orders) for n, orders in enumerate((100, 100, 50), start=1)),
        ]
        [value] = figures.values(made)
        assert (list(value.rounds), value.median, value.is_reached) == ([4, 9, 10], 9, True)

    def test_round_without_a_result_does_not_count(self) -> None:
        """Nor does a figure for which no round is left."""
        on = [make_run("hot_64_on", round=1), make_run("hot_64_on", round=2)]
        off = [make_run("hot_64_off", round=1, no_result="no"), make_run("hot_64_off", round=2, orders=500)]
        [value] = figures.values([*on, *off])
        assert (list(value.rounds), value.is_reached) == ([2], False)
        assert figures.values([on[0], off[0]]) == []

    def test_absolute_figures(self) -> None:
        """Latency and memory at most; the database is no service."""
        memory = {"order": 99.0, "database": 500.0}
        made = [make_run("half_of_peak_on"), make_run("hot_1000_on", memory_mb=memory)]
        found = {value.figure.of: value for value in figures.values(made)}
        assert (found["hot_1000_on"].median, found["hot_1000_on"].is_reached) == (99, True)
        # p99 is the 990th of 1,000.
        assert [value.median for value in figures.values(made)][:2] == [2, 1]


class TestReport:
    def test_tables_have_a_line_for_each_measurement(self) -> None:
        """With the range over the rounds; without any result it says so."""
        made = [make_run(round=1), make_run(round=2, orders=3_000), make_run("hot_64_off", no_result="no")]
        header, rows = report.runs_grid(made)
        assert header == ["measurement", "a second", "p50 ms", "p99 ms", "p99.9 ms"]
        assert rows[0] == ["hot_64_on", "200 (100 to 300)", "2.0", "2.0", "50.0"]
        assert rows[1][:2] == ["hot_64_off", "no result"]

    def test_processes_that_a_server_lacks_are_left_blank(self) -> None:
        """The empty handler has no database."""
        header, rows = report.processes_grid([make_run(), make_run("floor_64", cpu_s={"floor": 0.1}, memory_mb={})])
        assert header == ["measurement", "order", "database", "wrk", "floor"]
        assert rows == [
            ["hot_64_on", "0.50, 80 MB", "0.25, 150 MB", "0.10", ""],
            ["floor_64", "", "", "", "0.10"],
        ]

    def test_document_holds_everything_but_histograms(self) -> None:
        """Runs, medians, figures and the machine, ready for JSON."""
        made = [make_run(), make_run("hot_64_off", orders=100), make_run("floor_64", no_result="it was late")]
        found = json.loads(json.dumps(make_report(made).document(), default=str))
        assert found["figures"][0] | {"median": 10, "reached": True, "target": ">= 4"} == found["figures"][0]
        assert found["runs"][0]["per_second"] == 100
        assert "latencies" not in found["runs"][0]
        assert (found["medians"]["hot_64_on"]["per_second"], found["medians"]["floor_64"]) == (100, {})
        assert (found["machine"], found["filled"]) == ({"CPU": "one & only"}, 5_000_000)
        assert make_report(made).no_results == ["No result: floor_64, round 1: it was late."]


class TestPage:
    def test_chart_is_well_formed_and_to_scale(self) -> None:
        """Bars are as long as their numbers; labels are escaped; it follows the page into the dark."""
        drawn = svg("a < b", [Bar("A & B", "on", 100, 90, 120), Bar("C", "off", 50, 50, 50)])
        root = ElementTree.fromstring(drawn)
        widths = [float(rect.get("width", 0)) for rect in root.iter(f"{SVG}rect")]
        assert widths[0] == pytest.approx(2 * widths[1], abs=0.1)
        assert [text.text for text in root.iter(f"{SVG}text")] == ["a < b", "A & B", "100", "C", "50"]
        assert len(list(root.iter(f"{SVG}path"))) == 1
        assert "prefers-color-scheme: dark" in drawn

    def test_bars_are_throughputs_with_a_result(self) -> None:
        """Neither an order alone nor a load that is held back says how much goes through."""
        made = [make_run(), make_run("alone_on"), make_run("half_of_peak_on"), make_run("floor_64", no_result="no")]
        assert [bar.label for bar in document.bars(make_report(made))] == ["hot SKU, 64 clients, group commit"]

    def test_results_replace_what_is_between_the_markers(self, tmp_path: Path) -> None:
        """The prose around them stays; writing twice is writing once; the chart is next to the page."""
        page = tmp_path / "performance.md"
        page.write_text(f"# Before\n{document.BEGIN}\nbefore that\n{document.END}\nafter\n")
        for _ in range(2):
            document.write(page, make_report([make_run(), make_run("hot_64_off", no_result="it was late")]))
        text = page.read_text()
        assert text.startswith("# Before\n")
        assert text.endswith("after\n")
        assert "before that" not in text
        assert text.count("| hot_64_on | 100 |") == 1
        assert "- No result: hot_64_off, round 1: it was late." in text
        assert "`ORDER_MAX_BATCH=8`" in text
        assert "![Orders a second (the empty handler: requests)](performance.svg)" in text
        assert ElementTree.parse(tmp_path / "performance.svg").getroot().tag == f"{SVG}svg"

    def test_page_without_markers_is_left_alone(self, tmp_path: Path) -> None:
        """And the error says what to put there."""
        page = tmp_path / "page.md"
        page.write_text("nothing\n")
        with pytest.raises(Unavailable, match="put these two lines into it"):
            document.write(page, make_report([make_run()]))
        assert list(tmp_path.iterdir()) == [page]


def test_ids_from_a_time_on() -> None:
    """The bound of ``vv audit --since`` is below every id of that time, and above those of a millisecond before."""
    now = datetime.now(UTC)
    order_id = str(uuid_utils.uuid7())
    assert first_order_id(now) < order_id
    assert first_order_id(now + timedelta(seconds=1)) > order_id
    assert len(first_order_id(now)) == 14


class TestComparison:
    def document(self, *made: Run) -> dict[str, Any]:
        """As a program reads it."""
        document: dict[str, Any] = json.loads(json.dumps(make_report(list(made)).document(), default=str))
        return document

    def rounds(self, *pairs: tuple[int, int], name: str = "hot_64_on") -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Orders of base and head, round by round."""
        return [
            (self.document(make_run(name, orders=base)), self.document(make_run(name, orders=head)))
            for base, head in pairs
        ]

    def test_what_is_compared_is_of_the_same_round(self) -> None:
        """A machine that is half as fast in a round is so for both."""
        [found] = comparison.compared(self.rounds((1_000, 900), (500, 450), (2_000, 1_800)))
        assert found.ratios == pytest.approx([0.9, 0.9, 0.9])
        assert found.document()["ratio"] == pytest.approx(0.9)

    @pytest.mark.parametrize(
        ("pairs", "short"),
        [
            ([(1_000, 700), (1_000, 800), (1_000, 750)], ["hot_64_on"]),
            ([(1_000, 700), (1_000, 1_100), (1_000, 750)], []),
            ([(1_000, 950), (1_000, 900), (1_000, 920)], []),
            ([(1_000, 1_500)], []),
        ],
        ids=["slower", "one round says otherwise", "not by much", "faster"],
    )
    def test_who_is_slower(self, pairs: list[tuple[int, int]], short: list[str]) -> None:
        """By the median, and only if no round says otherwise."""
        assert comparison.slower(comparison.compared(self.rounds(*pairs)), 0.85) == short

    def test_the_floor_is_never_slower(self) -> None:
        """It is the same program in both, and only shows the noise."""
        found = comparison.compared(self.rounds((1_000, 500), name="floor_256"))
        assert comparison.slower(found, 0.85) == []

    def test_what_only_one_has_is_not_compared(self) -> None:
        """A new measurement, or a run without a result, which is named."""
        base = self.document(make_run("hot_64_on"), make_run("old"), make_run("alone_on"))
        head = self.document(make_run("hot_64_on"), make_run("new"), make_run("alone_on", no_result="it broke"))
        assert [one.measurement for one in comparison.compared([(base, head)])] == ["hot_64_on"]
        assert comparison.no_results([(base, head)]) == ["No result: alone_on of head, round 1: it broke."]

    def test_the_table(self) -> None:
        """Medians, ratios with their range, and who is slower."""
        [_, _, row] = comparison.markdown(comparison.compared(self.rounds((1_000, 700), (1_000, 800))), 0.85)
        assert row == "| hot_64_on | 100 | 75 | 0.75 (0.70 to 0.80) | 2.0 | 2.0 | **slower** |"
