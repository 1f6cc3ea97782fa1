"""compose.yaml: valid, locked down, and wired to settings and files that exist."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import (
    ROOT,
    SERVICES,
    compose,
    settings_of,
    settings_of_migrations,
    tool,
    variables_of_the_front_door,
)
from vv.stack_services import PORTS

CONTAINERS: dict[str, dict[str, Any]] = compose()["services"]
each_container = pytest.mark.parametrize("name", CONTAINERS)
OURS = (*SERVICES, "migrate", "locust")


def test_it_fits_the_specification() -> None:
    """The schema of the Compose specification takes it."""
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


@each_container
def test_nobody_can_do_more_than_he_must(name: str) -> None:
    """No capability, no way to get one, no file system to write to, no root, and no more of the machine than is his."""
    container = CONTAINERS[name]
    assert container["read_only"]
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    # That of our image is in the Dockerfile, that of nginx in its image.
    assert name in (*OURS, "gateway") or not container["user"].startswith("0")
    assert not container.keys() & {"privileged", "cap_add", "pid", "network_mode", "devices"}


@each_container
def test_images_are_pinned(name: str) -> None:
    """By an exact version, but for what is built here."""
    image = CONTAINERS[name]["image"]
    assert ("build" in CONTAINERS[name] and image.startswith("${VV_")) or re.search(r":v?\d+\.\d+\.\d+", image), image


def test_only_the_front_door_is_open_to_others() -> None:
    """Everything else that is published is for this machine, and in a profile; the services and databases have no way
    to the outside at all, or none that leads in."""
    for name, container in CONTAINERS.items():
        ports = container.get("ports", [])
        if name == "gateway":
            assert ports == ["${FRONT_DOOR_PORT:-8443}:8443"]
        else:
            assert all(port.startswith("127.0.0.1:") for port in ports)
            assert not ports or container["profiles"]
    assert compose()["networks"]["shop"] == compose()["networks"]["data"] == {"internal": True}
    on_data = {name for name, container in CONTAINERS.items() if "data" in container["networks"]}
    assert on_data == {*SERVICES, "migrate", "database"}
    assert CONTAINERS["database"]["networks"] == CONTAINERS["migrate"]["networks"] == ["data"]


@pytest.mark.parametrize("service", SERVICES)
def test_the_services_know_each_variable(service: str) -> None:
    """A setting that was renamed is renamed here, too."""
    given = CONTAINERS[service]["environment"].keys()
    assert given - settings_of(service) == set()
    assert f"{service.upper()}_DATABASE_URL_FILE" in given


def test_the_migrations_know_each_variable() -> None:
    """Those of all three databases."""
    assert CONTAINERS["migrate"]["environment"].keys() <= settings_of_migrations()
    assert len(CONTAINERS["migrate"]["environment"]) == 6


def test_the_front_door_gets_what_its_template_needs() -> None:
    """Nothing stays open, and nothing is given that the template does not take."""
    defaults = (ROOT / CONTAINERS["gateway"]["env_file"]).read_text(encoding="utf-8")
    given = set(re.findall(r"^([A-Z_]+)=", defaults, re.MULTILINE)) | CONTAINERS["gateway"]["environment"].keys()
    assert {name for name in given if not name.startswith("NGINX_")} == variables_of_the_front_door()
    pattern = CONTAINERS["gateway"]["environment"]["NGINX_ENVSUBST_FILTER"]
    assert [name for name in variables_of_the_front_door() if not re.search(pattern, name)] == []


@each_container
def test_files_of_secrets_are_there(name: str) -> None:
    """Whatever is named in /run/secrets is a secret of that container, and each of its secrets is named."""
    container = CONTAINERS[name]
    text = repr([container.get("environment"), container.get("command")])
    named = set(re.findall(r"/run/secrets/([\w.-]+)", text))
    secrets = set(container.get("secrets", ()))
    assert named <= secrets
    # In their own files: the script of the database, the URLs of the migrations, the configuration of Prometheus.
    in_files = {
        "database": "database-password-",
        "migrate": ("ca.crt", "migrate."),
        "prometheus": ("ca.", "prometheus."),
    }
    assert {each for each in secrets - named if not each.startswith(in_files.get(name, "-"))} == set()
    assert secrets <= compose()["secrets"].keys()


def test_the_first_start_makes_every_secret(secrets: Path) -> None:
    """deploy/make-secrets leaves each file that is named, readable for whoever is in a container, and only there."""
    named = {Path(secret["file"]).name for secret in compose()["secrets"].values()}
    made = {path.name: path for path in secrets.iterdir()}
    assert named <= made.keys()
    assert {name for name in named if made[name].stat().st_mode & 0o777 != 0o644} == set()
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert made["ca.key"].stat().st_mode & 0o777 == 0o600


def test_the_first_start_is_made_once(secrets: Path) -> None:
    """Passwords and certificates that are there stay: a database knows them already."""
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    subprocess.run([secrets.parent / "make-secrets"], check=True)
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before


@each_container
def test_what_is_mounted_exists(name: str) -> None:
    """And only to be read, but for what holds data."""
    for volume in CONTAINERS[name].get("volumes", ()):
        source, _, options = volume.partition(":")
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert options.endswith(":ro")
        else:
            assert source in compose()["volumes"]


def test_prometheus_asks_the_same_as_elsewhere() -> None:
    """Its configuration for compose is prometheus-tls.yml with other names for the services, and files of secrets."""
    ours, others = (
        yaml.safe_load((ROOT / "deploy" / path).read_text(encoding="utf-8"))
        for path in ("compose/prometheus.yml", "observability/prometheus-tls.yml")
    )
    for scrape in ours["scrape_configs"]:
        service = scrape["job_name"].removeprefix("vv-")
        [[target]] = [each["targets"] for each in scrape["static_configs"]]
        assert target == f"{service}:{PORTS[service]}"
        files = {Path(value).name for name, value in scrape["tls_config"].items() if name.endswith("_file")}
        assert files == {"ca.crt", "prometheus.crt", "prometheus.key"} <= set(CONTAINERS["prometheus"]["secrets"])
    for configuration in (ours, others):
        for scrape in configuration["scrape_configs"]:
            del scrape["static_configs"], scrape["tls_config"]
    assert ours == others


def test_order_of_the_start() -> None:
    """Tables before services, services before the front door."""
    assert CONTAINERS["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    for service in SERVICES:
        assert CONTAINERS[service]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
        assert CONTAINERS["gateway"]["depends_on"][service]["condition"] == "service_healthy"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_secrets(tmp_path_factory.mktemp("first-start"))


def make_secrets(folder: Path) -> Path:
    """Run deploy/make-secrets in a folder that looks like ours."""
    (folder / "deploy").mkdir()
    shutil.copy2(ROOT / "deploy" / "make-secrets", folder / "deploy")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "vv").symlink_to(tool("vv"))
    subprocess.run([folder / "deploy" / "make-secrets"], check=True)
    return folder / "deploy" / "secrets"
