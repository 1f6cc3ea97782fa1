"""The pipelines: what ``make workflows`` cannot know. They run on GitHub only; here they are read."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# A commit, and behind it the version that it is.
PINNED = re.compile(r"(?P<action>[\w./-]+)@(?P<commit>[0-9a-f]{40}) # (?P<version>v\d+\.\d+\.\d+)")
OURS = re.compile(r"\$/\.github/workflows/[\w.-]+\.yml")

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def jobs_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read(path)["jobs"]
    return found


def commands_of(path: Path) -> Iterator[str]:
    """What the steps run."""
    for job in jobs_of(path).values():
        yield from (step["run"] for step in job.get("steps", ()) if "run" in step)


def test_all_of_them_are_there() -> None:
    """Checks, the benchmark of pull requests, the long runs of the night, and releases."""
    assert [path.stem for path in WORKFLOWS] == ["bench", "ci", "nightly", "release"]


def test_actions_are_pinned_by_commit() -> None:
    """A tag can be moved to other code, a commit cannot; one version of an action everywhere."""
    used = [
        line.partition("uses:")[2].strip()
        for path in WORKFLOWS
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(- )?uses:", line)
    ]
    versions: dict[str, set[tuple[str, str]]] = {}
    for reference in used:
        if OURS.fullmatch(reference):
            continue
        pinned = PINNED.fullmatch(reference)
        assert pinned, reference
        versions.setdefault(pinned["action"], set()).add((pinned["commit"], pinned["version"]))
    assert len(versions) > 5
    assert [action for action, found in versions.items() if len(found) > 1] == []


@each_workflow
def test_least_permissions(path: Path) -> None:
    """By default a job may read the code, or nothing. What may write says so itself, and runs no code of ours, but in a
    release."""
    assert read(path)["permissions"] in ({}, {"contents": "read"})
    for name, job in jobs_of(path).items():
        writes = [scope for scope, access in (job.get("permissions") or {}).items() if access == "write"]
        checks_out = any("actions/checkout" in step.get("uses", "") for step in job.get("steps", ()))
        assert not (writes and checks_out and path.stem != "release"), name


@each_workflow
def test_no_secrets_and_no_foreign_code_with_rights(path: Path) -> None:
    """The token of the run is all there is, git does not keep it, and code of forks gets no other one."""
    text = path.read_text(encoding="utf-8")
    assert "secrets." not in text
    assert "pull_request_target" not in text
    assert "workflow_run" not in text
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


@each_workflow
def test_nothing_runs_for_ever(path: Path) -> None:
    """Each job has a limit, and each workflow says what becomes of a run that is overtaken."""
    assert "cancel-in-progress" in read(path)["concurrency"]
    assert [name for name, job in jobs_of(path).items() if "uses" not in job and "timeout-minutes" not in job] == []


@each_workflow
def test_make_knows_what_is_asked_of_it(path: Path) -> None:
    """Every target that a step makes is one of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    made = [
        match[1]
        for command in commands_of(path)
        for match in re.finditer(r"^\s*make (?:--directory \w+ )?(\w+)", command, re.MULTILINE)
    ]
    assert made or path.stem == "bench"
    assert [target for target in made if target not in targets] == []


def test_the_gate_needs_every_job() -> None:
    """``passed`` is the one check that a rule for the branch names; a job that it does not need would not count."""
    jobs = jobs_of(ROOT / ".github" / "workflows" / "ci.yml")
    assert sorted(jobs["passed"]["needs"]) == sorted(jobs.keys() - {"passed"})
    assert jobs["passed"]["if"] == "always()"


def test_every_python_and_database_that_we_promise() -> None:
    """The tests run on each Python of setup.cfg, against each database of the README, and each with each."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    promised = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    matrix: Mapping[str, Any] = jobs_of(ROOT / ".github" / "workflows" / "ci.yml")["test"]["strategy"]["matrix"]
    assert matrix.keys() == {"python", "database"}
    assert matrix["python"] == promised
    images = [database["image"] for database in matrix["database"]]
    assert [image for image in images if re.fullmatch(r"mariadb:10\.11|mariadb:11\.\d+|mysql:8\.4", image)] == images
    assert len(set(images)) == 3


class TestReleaseNotes:
    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        """What the script reads, with a changelog of two versions."""
        (tmp_path / ".ci").mkdir()
        shutil.copy(ROOT / ".ci" / "release-notes", tmp_path / ".ci")
        (tmp_path / "setup.cfg").write_text("[metadata]\nversion = 1.2.0\n", encoding="utf-8")
        sections = (
            "## [Unreleased]\n\nLater.\n\n## [1.2.0] - 2026-12-01\n\n### Added\n\n- This.\n\n## [1.1.0]\n\n- That.\n"
        )
        (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{sections}\n[1.1.0]: x\n", encoding="utf-8")
        return tmp_path

    def run(self, checkout: Path, version: str) -> "subprocess.CompletedProcess[str]":
        script = checkout / ".ci" / "release-notes"
        return subprocess.run([script, version], capture_output=True, text=True, check=False)

    def test_the_section_of_the_version(self, checkout: Path) -> None:
        """Without its heading, and nothing of its neighbours."""
        assert self.run(checkout, "1.2.0").stdout == "### Added\n\n- This.\n"

    def test_the_last_section(self, checkout: Path) -> None:
        """The links at the end of the file are none of it."""
        (checkout / "setup.cfg").write_text("[metadata]\nversion = 1.1.0\n", encoding="utf-8")
        assert self.run(checkout, "1.1.0").stdout == "- That.\n"

    def test_another_version_than_that_of_the_package(self, checkout: Path) -> None:
        """A tag that does not fit is refused before anything is built."""
        ended = self.run(checkout, "1.1.0")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "setup.cfg has version 1.2.0, not 1.1.0" in ended.stderr

    def test_a_version_that_nobody_wrote_about(self, checkout: Path) -> None:
        """A release without notes is refused."""
        (checkout / "setup.cfg").write_text("[metadata]\nversion = 1.3.0\n", encoding="utf-8")
        ended = self.run(checkout, "1.3.0")
        assert ended.returncode == 1
        assert "no section ## [1.3.0]" in ended.stderr
