"""The Dockerfile: clean, complete, and its programs run as nobody. ``make image-check`` carries it out."""

import configparser
import subprocess

import pytest

from tests.image import dockerfile
from tests.image.dockerfile import Stage
from tests.manifests import ROOT, tool
from tests.processes import free_port
from vv import probe
from vv.stack_services import PORTS


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return {stage.name: stage for stage in dockerfile.read(ROOT / "Dockerfile")}


def copied(stage: Stage) -> set[str]:
    """What a stage takes from our folder."""
    steps = [step.arguments for step in stage.steps if step.kind == "COPY" and not step.arguments[0].startswith("--")]
    return {source for arguments in steps for source in arguments[:-1]}


def test_hadolint_has_nothing_to_say() -> None:
    """Every rule of it holds."""
    ended = subprocess.run([tool("hadolint"), "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_every_package_is_in_the_image(stages: dict[str, Stage]) -> None:
    """What setup.cfg installs is copied, and .dockerignore lets through what is copied."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = setup["options.packages.find"]["include"].split()
    assert {package.rstrip("*") for package in packages} <= copied(stages["build"])
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = copied(stages["build"]) | copied(stages["load"])
    assert sources == let_through
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_base_is_pinned_and_one(stages: dict[str, Stage]) -> None:
    """By its exact version, for both stages."""
    assert stages["build"].base == stages["runtime"].base
    name, _, tag = stages["build"].base.rpartition(":")
    assert name == "docker.io/library/python"
    assert tag.count(".") == 2, tag


def test_the_programs_run_as_nobody_in_particular(stages: dict[str, Stage]) -> None:
    """A number, which Kubernetes can tell from root; and as process 1, which gets the signals."""
    runtime = list(stages.values())[-1]
    assert runtime.name == "runtime"
    assert runtime.user == stages["load"].user == "10001:10001"
    assert runtime.entrypoint == ["python", "-m"]
    assert runtime.command == ["order_service"]
    assert runtime.environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert runtime.ports == [str(port) for port in PORTS.values()]


def test_nothing_is_compiled_or_fetched_unseen(stages: dict[str, Stage]) -> None:
    """pip takes wheels whose hashes we know, or none from outside."""
    installs = [
        command
        for stage in stages.values()
        for step in stage.steps
        if step.kind == "RUN"
        for command in step.arguments[0].split("&&")
        if " pip " in f" {command.strip()} " and ("install" in command or "wheel" in command.split("pip", 1)[1])
    ]
    assert len(installs) >= 5
    for command in installs:
        assert "--no-index" in command or {"--require-hashes", "--only-binary"} <= set(command.split()), command


def test_the_probe_knows_where_the_services_are() -> None:
    """It must not take the time to import their settings."""
    assert probe.PORTS == PORTS
    for service, port in PORTS.items():
        assert probe.address(service, {}) == ("127.0.0.1", port)
        assert probe.address(service, {f"{service.upper()}_HOST": "0.0.0.0"}) == ("127.0.0.1", port)
        assert probe.address(service, {f"{service.upper()}_HOST": "::", f"{service.upper()}_PORT": "1"}) == ("::1", 1)
        assert probe.address(service, {f"{service.upper()}_HOST": "192.0.2.1"}) == ("192.0.2.1", port)


def test_the_probe_shows_the_certificate_of_the_service() -> None:
    """Its own files come before those of all services, and there is no TLS with less than three."""
    all_services = {"TLS_CERTIFICATE": "c", "TLS_KEY": "k", "TLS_CA": "a"}
    assert probe.tls_files("order", all_services) == ["c", "k", "a"]
    assert probe.tls_files("order", {**all_services, "ORDER_TLS_KEY": "own"}) == ["c", "own", "a"]
    assert probe.tls_files("order", {**all_services, "INVENTORY_TLS_KEY": "other"}) == ["c", "k", "a"]
    assert probe.tls_files("order", {**all_services, "TLS_CA": ""}) == []


@pytest.mark.parametrize("words", [["other_service"], ["order", "readyz"], ["order", "/livez", "/readyz"], ["-h"]])
def test_the_probe_refuses_what_it_does_not_understand(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """So that a health check with a mistake in it never passes."""
    assert probe.main(words, {}) == 2
    assert "usage" in capsys.readouterr().err


def test_the_probe_fails_where_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    """And says so."""
    assert probe.main(["order"], {"ORDER_PORT": str(free_port())}) == 1
    assert "refused" in capsys.readouterr().err
