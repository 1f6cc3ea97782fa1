"""What deployments are described by: compose.yaml, the overlays for Kubernetes as they are applied, our settings."""

import functools
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

ROOT = Path(__file__).parents[1]
OVERLAYS = ("dev", "production")
SERVICES = ("order", "inventory", "payment")

Document = dict[str, Any]


def tool(name: str) -> str:
    """A program of the development dependencies."""
    found = Path(sys.executable).with_name(name)
    program = str(found) if found.exists() else shutil.which(name)
    assert program is not None, f"{name} is one of the development dependencies; it was not found"
    return program


@functools.cache
def compose() -> Document:
    document: Document = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return document


@functools.cache
def rendered(overlay: str) -> str:
    """An overlay as ``kubectl apply -k`` sends it. Skips the test where neither kubectl nor kustomize is there."""
    folder = str(ROOT / "deploy" / "kubernetes" / "overlays" / overlay)
    for command in (["kubectl", "kustomize", folder], ["kustomize", "build", folder]):
        if shutil.which(command[0]):
            built = subprocess.run(command, capture_output=True, text=True, check=False)
            assert built.returncode == 0, built.stderr
            return built.stdout
    pytest.skip("builds the overlays with kubectl or kustomize, and there is neither")


@functools.cache
def objects(overlay: str) -> list[Document]:
    return list(yaml.safe_load_all(rendered(overlay)))


def of_kind(overlay: str, *kinds: str) -> dict[str, Document]:
    """The objects of some kinds, by name."""
    return {each["metadata"]["name"]: each for each in objects(overlay) if each["kind"] in kinds}


def pods(overlay: str) -> dict[str, Document]:
    """The specification of each kind of pod, by the name of what makes it."""
    makers = of_kind(overlay, "Deployment", "StatefulSet", "Job")
    return {name: maker["spec"]["template"]["spec"] for name, maker in makers.items()}


def variables_of(overlay: str, container: Document) -> dict[str, str]:
    """The environment of a container."""
    maps = of_kind(overlay, "ConfigMap")
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]["data"]
    return found | {each["name"]: each["value"] for each in container.get("env", ())}


def settings_of(service: str) -> set[str]:
    """Every variable that a service knows."""
    fields = import_module(f"{service}_service.settings").Settings.model_fields
    secrets = [name for name, field in fields.items() if "SecretStr" in str(field.annotation or SecretStr)]
    own = {f"{service.upper()}_{name.upper()}" for name in fields}
    shared = {name.upper() for name in fields if name.startswith(("auth", "tls_", "trace_"))}
    return own | shared | {f"{service.upper()}_{name.upper()}_FILE" for name in secrets}


def settings_of_migrations() -> set[str]:
    names = {f"{service.upper()}_{kind}DATABASE_URL" for service in SERVICES for kind in ("", "MIGRATION_")}
    return names | {f"{name}_FILE" for name in names}


def variables_of_the_front_door() -> set[str]:
    """What the template of nginx is filled with."""
    template = (ROOT / "deploy" / "gateway" / "nginx.conf.template").read_text(encoding="utf-8")
    return set(re.findall(r"\$\{([A-Z_]+)\}", template))
