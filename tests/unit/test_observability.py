"""Dashboard, alert rules and docs speak of what the services really expose, and of nothing else."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.contracts.payments import PaymentStatus
from common.errors import ERRORS_BY_CODE
from order_service.metrics import Step
from tests.exposed_metrics import Exposed, exposed
from tests.route_tables import ENDPOINTS, KIT_PATHS

ROOT = Path(__file__).parents[2]
OBSERVABILITY = ROOT / "deploy" / "observability"
RULES = yaml.safe_load((OBSERVABILITY / "rules" / "vv.yml").read_text(encoding="utf-8"))["groups"]
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in RULES for rule in group["rules"] if "alert" in rule
}
RECORDED = {rule["record"] for group in RULES for rule in group["rules"] if "record" in rule}
DASHBOARDS = sorted((OBSERVABILITY / "grafana" / "dashboards").glob("*.json"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
# What Prometheus adds by itself.
TARGET_LABELS = {"job", "instance"}
OF_PROMETHEUS = {"up": frozenset[str](), "ALERTS": frozenset({"alertname", "alertstate", "severity"})}
# Of labels whose values are ours: what may be asked for.
VALUES: dict[str, set[str]] = {
    "route": {endpoint.route.path for endpoint in ENDPOINTS} | set(KIT_PATHS),
    "method": {"GET", "POST", "PATCH"},
    "step": set(Step),
    "callee": {"inventory", "payment"},
    "call": {"charge", "find", "cancel", "refund"},
    "outcome": {"ok", "refused", "unknown", "approved", "declined", "done", "not_found", "served", "put_off", "gave_up"}
    | set(PaymentStatus)
    | set(ERRORS_BY_CODE),
}

# A name of a metric: ours, of processes, recorded by a rule (with colons), or one of Prometheus' own.
_NAME = r"(?:job:)?vv_[a-z0-9_]+(?::[a-z0-9_]+)*|process_[a-z_]+|\bup\b|\bALERTS\b"
_SELECTOR = re.compile(rf"({_NAME})(?:{{(.*?)}})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


def panels_of(dashboard: Any) -> Iterator[Any]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def queries() -> Iterator[tuple[str, str]]:
    """Each expression, and where it stands."""
    for group in RULES:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        for panel in panels_of(dashboard):
            for target in panel.get("targets", []):
                yield panel["title"], target["expr"].replace("$__rate_interval", "1m")
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                yield variable["name"], variable["query"]["query"]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exposed]:
    return exposed(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def series(metrics: dict[str, Exposed]) -> dict[str, frozenset[str]]:
    """The labels of each time series that there may be."""
    ours = dict(chain.from_iterable(metric.series.items() for metric in metrics.values()))
    return {**OF_PROMETHEUS, **ours, **dict.fromkeys(RECORDED, frozenset[str]())}


@pytest.mark.parametrize(("where", "expression"), list(queries()))
def test_what_is_asked_for_exists(where: str, expression: str, series: dict[str, frozenset[str]]) -> None:
    """Each name, each label of it, each value of a label whose values are ours, and each label that is grouped by."""
    selectors = _SELECTOR.findall(expression)
    assert selectors, where
    known = set(TARGET_LABELS)
    for name, matchers in selectors:
        assert name in series, f"{where}: nothing exposes {name}"
        known |= series[name]
        found = _MATCHER.findall(matchers)
        assert len(found) == matchers.count('"') // 2, f"{where}: {matchers} cannot be read"
        for label, operator, value in found:
            assert label in series[name] | TARGET_LABELS, f"{where}: {name} has no label {label}"
            wrong = [one for one in _values(operator, value) if one not in VALUES.get(label, {one})]
            assert wrong == [], f"{where}: {label} is never {wrong}"
    grouped = {label.strip() for labels in _GROUPING.findall(expression) for label in labels.split(",")}
    assert grouped <= known, f"{where}: {grouped - known}"


def _values(operator: str, value: str) -> list[str]:
    """The values that a matcher names; a variable of the dashboard, or a pattern that is no list, names none."""
    if "$" in value:
        return []
    if operator in ("=", "!="):
        return [value]
    prefix, is_list, rest = value.partition("(")
    alternatives = rest.removesuffix(")").split("|") if is_list else value.split("|")
    return [prefix + one if is_list else one for one in alternatives if not re.search(r"[.*+\[]", one)]


@pytest.mark.parametrize(
    "wrong", ["vv_no_such_metric", 'up{colour="red"}', 'vv_gateway_call_duration_seconds_sum{call="x"}']
)
def test_what_does_not_exist_is_noticed(wrong: str, series: dict[str, frozenset[str]]) -> None:
    """A wrong name, a wrong label and a wrong value: the test above can fail."""
    with pytest.raises(AssertionError):
        test_what_is_asked_for_exists("here", wrong, series)


def test_every_metric_of_ours_is_looked_at(metrics: dict[str, Exposed]) -> None:
    """A metric that neither a panel nor an alert shows is one that nobody sees."""
    shown = {name for _, expression in queries() for name, _ in _SELECTOR.findall(expression)}
    ours = {name: set(metric.series) for name, metric in metrics.items() if name.startswith("vv_")}
    assert sorted(name for name, names in ours.items() if not names & shown) == []


def section(heading: str) -> str:
    """What stands in the docs under a heading of the second level."""
    return re.split(r"^## ", OPERATIONS.split(f"\n## {heading}\n", 1)[1], flags=re.MULTILINE)[0]


def test_every_metric_is_documented(metrics: dict[str, Exposed]) -> None:
    """The table has a row for each, with its kind, its labels and the services that have it, and no other."""
    rows = [line.strip("| ").split(" | ") for line in section("Metrics").splitlines() if line.startswith("| `")]
    ours = [metric for metric in metrics.values() if metric.name.startswith("vv_")]
    expected = {
        (
            f"`{metric.name}`",
            metric.kind,
            " ".join(f"`{label}`" for label in sorted(metric.labels)) or "none",
            "all" if len(metric.services) == 3 else " ".join(sorted(metric.services)),
        )
        for metric in ours
    }
    assert {tuple(row[:4]) for row in rows} == expected
    assert len(rows) == len(expected)
    assert all(len(row) == 5 and row[4] for row in rows)


@pytest.mark.parametrize("alert", list(ALERTS))
def test_every_alert_has_its_runbook(alert: str) -> None:
    """A section with what it means, what to look at, and what to do, to which the alert links."""
    rule = ALERTS[alert]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["runbook_url"] == f"{{{{ $externalLabels.runbooks }}}}/operations.md#{alert.lower()}"
    text = section("Alerts").split(f"\n### {alert}\n", 1)[1].split("\n### ", 1)[0]
    for word in ("**Means**", "**Look**", "**Do**"):
        assert word in text


def test_every_runbook_has_its_alert() -> None:
    """A section about an alert that is gone would mislead."""
    assert re.findall(r"^### (\S+)$", section("Alerts"), re.MULTILINE) == list(ALERTS)


def test_every_alert_is_tried() -> None:
    """In the unit tests of the rules each alert fires once, and each stays silent once."""
    fires, silent = set[str](), set[str]()
    for path in (OBSERVABILITY / "tests").glob("*.yml"):
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for expected in case["alert_rule_test"]:
                (fires if expected["exp_alerts"] else silent).add(expected["alertname"])
    assert (fires, silent) == (set(ALERTS), set(ALERTS))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_dashboard_is_whole(path: Path) -> None:
    """Each panel has an id, a place, a description and the provisioned data source; each row has panels."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    panels = [panel for panel in panels_of(dashboard) if panel["type"] != "row"]
    assert len({panel["id"] for panel in panels_of(dashboard)}) == len(list(panels_of(dashboard)))
    sources = yaml.safe_load((OBSERVABILITY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    [uid] = [source["uid"] for source in sources["datasources"]]
    assert {panel["datasource"]["uid"] for panel in panels} == {uid}
    assert [panel["title"] for panel in panels if not panel["description"]] == []
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
