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
def test_files_of_secrets_are_there(name: str, secrets: Path) -> None:
    """Whatever is named in /run/secrets is in the folder that the container has there, and each file in it is named."""
    container = CONTAINERS[name]
    text = repr([container.get("environment"), container.get("command")])
    named = set(re.findall(r"/run/secrets/([\w.-]+)", text))
    made = {path.name for path in folder_of(name, secrets).iterdir()} if has_secrets(name) else set()
    assert named <= made
    # In their own files: the script of the database, the URLs of the migrations, the configuration of Prometheus.
    in_files = {
        "database": ("database-password-",),
        "migrate": ("ca.crt", "migrate."),
        "prometheus": ("ca.", "prometheus."),
    }
    assert {each for each in made - named if not each.startswith(in_files.get(name, ()))} == set()


def test_nobody_has_the_key_of_another(secrets: Path) -> None:
    """Each container has a folder of its own, of which no other is a part, and one key at the most."""
    folders = {name: folder_of(name, secrets) for name in CONTAINERS if has_secrets(name)}
    assert len(set(folders.values())) == len(folders) == len(CONTAINERS) - 1
    for name, folder in folders.items():
        assert folder.parent == secrets
        assert [path.name for path in folder.glob("*.key")] == ([] if name == "grafana" else [f"{folder.name}.key"])


def test_the_first_start_makes_every_secret(secrets: Path) -> None:
    """deploy/make-secrets leaves files that whoever is in a container may read, and nobody else outside."""
    for name in filter(has_secrets, CONTAINERS):
        folder = folder_of(name, secrets)
        assert folder.stat().st_mode & 0o777 == 0o755
        for path in folder.iterdir():
            assert path.stat().st_mode & 0o777 == 0o644
            assert path.read_bytes() == (secrets / path.name).read_bytes() != b""
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in secrets.iterdir() if path.is_file() and path.stat().st_mode & 0o077} == set()


def test_the_first_start_is_made_once(secrets: Path) -> None:
    """Passwords and certificates that are there stay, down to the very files: a database knows them already."""
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in secrets.rglob("*") if path.is_file()}
    subprocess.run([secrets.parent / "make-secrets"], check=True)
    assert before == {path: (path.read_bytes(), path.stat().st_ino) for path in secrets.rglob("*") if path.is_file()}


def test_what_is_renewed_reaches_the_containers(tmp_path: Path) -> None:
    """The folders that are mounted stay, and what is new is in them; so is the token of a payment gateway."""
    secrets = make_secrets(tmp_path)
    folder = secrets / "order"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    inode = folder.stat().st_ino
    (secrets / "database-password-order").unlink()
    (secrets / "payment-gateway-token").write_text("shown to the gateway")
    subprocess.run([secrets.parent / "make-secrets", "--renew"], check=True)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"order.crt", "order.key", "database-url-order"}
    assert after == {name: (secrets / name).read_bytes() for name in after}
    assert folder.stat().st_ino == inode
    assert (secrets / "database" / "database-password-order").read_text() in after["database-url-order"].decode()
    assert (secrets / "payment" / "payment-gateway-token").read_text() == "shown to the gateway"


@each_container
def test_what_is_mounted_exists(name: str) -> None:
    """And only to be read, but for what holds data."""
    for volume in CONTAINERS[name].get("volumes", ()):
        if isinstance(volume, dict):
            # By make-secrets: without it there is an error, and not a folder that is empty and root's.
            assert volume["read_only"]
            assert volume["bind"] == {"create_host_path": False}
            continue
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
        assert files == {"ca.crt", "prometheus.crt", "prometheus.key"}
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


def has_secrets(name: str) -> bool:
    return any(isinstance(volume, dict) for volume in CONTAINERS[name].get("volumes", ()))


def folder_of(name: str, secrets: Path) -> Path:
    """What a container has at /run/secrets."""
    [volume] = [volume for volume in CONTAINERS[name]["volumes"] if isinstance(volume, dict)]
    assert volume["target"] == "/run/secrets"
    return secrets / Path(volume["source"]).relative_to("deploy/secrets")


def make_secrets(folder: Path) -> Path:
    """Run deploy/make-secrets in a folder that looks like ours."""
    (folder / "deploy").mkdir()
    shutil.copy2(ROOT / "deploy" / "make-secrets", folder / "deploy")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "vv").symlink_to(tool("vv"))
    subprocess.run([folder / "deploy" / "make-secrets"], check=True)
    return folder / "deploy" / "secrets"
