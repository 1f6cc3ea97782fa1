"""What Prometheus' own tool says of the configuration, the rules, and the alerts that these raise."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import promtool

OBSERVABILITY = Path(__file__).parents[2] / "deploy" / "observability"


@pytest.fixture(scope="module")
def tool(request: pytest.FixtureRequest) -> Path:
    try:
        return promtool.find_or_fetch(request.config.cache.mkdir("promtool"))
    except promtool.NotThere as reason:
        pytest.skip(str(reason))


def run(tool: Path, *arguments: str, folder: Path = OBSERVABILITY) -> "subprocess.CompletedProcess[str]":
    command = [str(tool), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        # Without a look for the files of the certificates.
        ("check", "config", "--syntax-only", "prometheus-tls.yml"),
        ("check", "rules", "rules/vv.yml"),
        ("test", "rules", "tests/vv.yml"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_the_tool_is_content(arguments: tuple[str, ...], tool: Path) -> None:
    """With the configurations and the rules; and each alert fires when it is to, and only then."""
    ended = run(tool, *arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_an_alert_that_changes_is_noticed(tool: Path, tmp_path: Path) -> None:
    """A threshold that is too high, and two that are too low: the tests of the rules can fail."""
    shutil.copytree(OBSERVABILITY, tmp_path / "copy")
    rules = tmp_path / "copy/rules/vv.yml"
    text = rules.read_text(encoding="utf-8")
    for old, new in (
        ("vv_ledger_drift_skus) > 0", "vv_ledger_drift_skus) > 5"),
        ("vv_orders_oldest_unfinished_age_seconds) > 300", "vv_orders_oldest_unfinished_age_seconds) > 100"),
        ("> 14.4 * 0.001\n", "> 0\n"),
    ):
        assert old in text
        text = text.replace(old, new)
    rules.write_text(text, encoding="utf-8")
    ended = run(tool, "test", "rules", "tests/vv.yml", folder=tmp_path / "copy")
    assert ended.returncode == 1
    failed = set(re.findall(r"alertname: (\w+)", ended.stdout + ended.stderr))
    assert failed == {"LedgerDrifts", "OrdersStandStill", "ErrorBudgetBurnsFast"}
