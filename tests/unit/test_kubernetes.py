"""The manifests for Kubernetes, as the overlays make them: valid, locked down, and true to the rest of the project."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.contracts.access import Service
from tests.manifests import (
    OVERLAYS,
    ROOT,
    SERVICES,
    Document,
    objects,
    of_kind,
    pods,
    rendered,
    settings_of,
    settings_of_migrations,
    tool,
    variables_of,
    variables_of_the_front_door,
)
from tests.route_tables import ROUTES
from tests.unit.test_compose import make_secrets
from vv.stack_services import PORTS

# The oldest whose fields we use, and the newest there is a schema for.
VERSIONS = ("1.30", "1.37")
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
NAME = "app.kubernetes.io/name"


@pytest.mark.parametrize("version", VERSIONS)
def test_they_fit_the_official_schemas(version: str, tmp_path: Path) -> None:
    """Every object, with no field that Kubernetes does not know; there are no schemas for those of cert-manager."""
    manifests = [tmp_path / f"{overlay}.yaml" for overlay in OVERLAYS]
    for overlay, manifest in zip(OVERLAYS, manifests, strict=True):
        manifest.write_text(rendered(overlay), encoding="utf-8")
    command = [tool("kubernetes-validate"), "--strict", "--kubernetes-version", version, *map(str, manifests)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (ended.stdout + ended.stderr).splitlines()
    assert ended.returncode == 0, said
    unchecked = [line for line in said if not line.startswith("INFO")]
    assert [line for line in unchecked if "api version cert-manager.io/v1" not in line] == []
    all_of_them = [each for overlay in OVERLAYS for each in objects(overlay)]
    own = [each for each in all_of_them if not each["apiVersion"].startswith("cert-manager.io/")]
    assert len([line for line in said if " passed " in line]) == len(own) > 70


def containers_of(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


@each_overlay
def test_pods_are_restricted(overlay: str) -> None:
    """As the Pod Security Standard of that name wants it, which each namespace enforces; and with nothing to write to,
    no token, and no more memory than is theirs."""
    [namespace] = of_kind(overlay, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert len(pods(overlay)) >= 5
    for pod in pods(overlay).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers_of(pod):
            locked = {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert container["securityContext"] == locked
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert re.search(r":(dev|\d+\.\d+\.\d+)", container["image"]), container["image"]
    for account in of_kind(overlay, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False


@each_overlay
def test_every_variable_is_a_setting(overlay: str) -> None:
    """A setting that was renamed is renamed here, too."""
    known = set().union(*(settings_of(service) for service in SERVICES))
    for service in SERVICES:
        pod = pods(overlay)[service]
        first, own = (variables_of(overlay, container) for container in containers_of(pod))
        assert first == own
        assert own.keys() - known == set()
        assert own[f"{service.upper()}_HOST"] == "0.0.0.0"
        assert own[f"{service.upper()}_DATABASE_URL_FILE"]
    [migrate] = pods(overlay)["migrate"]["containers"]
    assert variables_of(overlay, migrate).keys() == {
        name for name in settings_of_migrations() if name.endswith("_FILE")
    }
    [gateway] = pods(overlay)["gateway"]["containers"]
    given = {name for name in variables_of(overlay, gateway) if not name.startswith("NGINX_")}
    assert given == variables_of_the_front_door()


@each_overlay
def test_files_that_are_named_are_mounted(overlay: str) -> None:
    """Whatever a variable says of /run/secrets is in the secrets that the pod has there."""
    keys = {"tls": {"tls.crt", "tls.key", "ca.crt"}, "database": {"database-url"}}
    for service in SERVICES:
        pod = pods(overlay)[service]
        there: set[str] = set()
        for source in sources_of(pod):
            name = source["name"]
            there |= {item["path"] for item in source.get("items", ())} or keys[name.removeprefix(f"{service}-")]
        for container in containers_of(pod):
            own = {
                variable: value
                for variable, value in variables_of(overlay, container).items()
                if value.startswith("/run/secrets/") and variable in settings_of(service)
            }
            assert len(own) >= 4
            assert {Path(value).name for value in own.values()} <= there


def sources_of(pod: Document) -> list[Document]:
    """The secrets that are at /run/secrets."""
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "secrets"]
    assert volume["projected"]["defaultMode"] == 0o440
    return [source["secret"] for source in volume["projected"]["sources"]]


@each_overlay
def test_the_services_are_asked_how_they_are(overlay: str) -> None:
    """With a program, for there is no answer without a certificate; a pod that drains leaves the endpoints at once."""
    for service in SERVICES:
        [container] = pods(overlay)[service]["containers"]
        for kind, path in {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}.items():
            assert container[kind]["exec"]["command"] == ["python", "-m", "vv.probe", path]
            # Longer than the probe itself waits.
            assert container[kind]["timeoutSeconds"] == 5
        assert container["readinessProbe"]["failureThreshold"] == 1
        # By the first probe after it began to drain, a pod must have left the endpoints, and everybody know of it.
        settings = variables_of(overlay, container)
        assert float(settings[f"{service.upper()}_DRAIN_DELAY_S"]) >= container["readinessProbe"]["periodSeconds"] + 5
        assert container["ports"] == [{"name": "https", "containerPort": PORTS[service]}]


@each_overlay
def test_a_roll_out_takes_nobody_away(overlay: str) -> None:
    """The new pod is there before the old one goes, the old one has the time that its settings give it, and of those
    that run one at a time is moved."""
    for name, deployment in of_kind(overlay, "Deployment").items():
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        assert "replicas" not in deployment["spec"], "the autoscaler's"
        assert of_kind(overlay, "PodDisruptionBudget")[name]["spec"]["maxUnavailable"] == 1
        assert of_kind(overlay, "HorizontalPodAutoscaler")[name]["spec"]["scaleTargetRef"]["name"] == name
        assert len(deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]) == 2
    for service in SERVICES:
        pod = pods(overlay)[service]
        settings = variables_of(overlay, pod["containers"][0])
        drains = sum(float(settings[f"{service.upper()}_DRAIN_{name}_S"]) for name in ("DELAY", "TIMEOUT"))
        assert pod["terminationGracePeriodSeconds"] >= drains + 12
        assert "lifecycle" not in pod["containers"][0], "the service itself waits"
    gateway = pods(overlay)["gateway"]
    [*_, seconds] = gateway["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    template = (ROOT / "deploy" / "gateway" / "nginx.conf.template").read_text(encoding="utf-8")
    shutdown = re.search(r"worker_shutdown_timeout (\d+)s", template)
    assert shutdown is not None
    assert gateway["terminationGracePeriodSeconds"] >= int(seconds) + int(shutdown[1]) + 10


@each_overlay
def test_the_tables_come_first(overlay: str) -> None:
    """Each new pod waits for the Job, as itself, and for no longer than a roll-out may take."""
    jobs = of_kind(overlay, "Job")
    assert jobs.keys() == {"migrate"}
    images = {container["image"] for name in (*SERVICES, "migrate") for container in containers_of(pods(overlay)[name])}
    assert len(images) == 1, "the tables of the version that is rolled out"
    for service in SERVICES:
        [wait] = pods(overlay)[service]["initContainers"]
        assert wait["args"] == ["vv", "migrate", "wait", "--service", service]
        assert wait["volumeMounts"] == pods(overlay)[service]["containers"][0]["volumeMounts"]
        deployment = of_kind(overlay, "Deployment")[service]
        assert deployment["spec"]["progressDeadlineSeconds"] > jobs["migrate"]["spec"]["activeDeadlineSeconds"]


def callers_of(service: str) -> set[str]:
    """Who must be let through to a service, by its route table: users come through the front door."""
    access = [route.access for route in ROUTES[service]]
    services = set().union(*(each.services for each in access)) - {Service.OPERATOR}
    return {str(name) for name in services} | ({"gateway"} if any(each.scope for each in access) else set())


def peers(policy: Document, direction: str) -> Iterator[tuple[str, Any]]:
    """Whom a policy names, each with a port."""
    side = {"ingress": "from", "egress": "to"}[direction]
    for rule in policy["spec"].get(direction, ()):
        for peer in rule.get(side, ()):
            for port in rule["ports"]:
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    yield peer["podSelector"]["matchLabels"][NAME], port["port"]


@each_overlay
@pytest.mark.parametrize("service", SERVICES)
def test_the_network_lets_through_who_may_call(service: str, overlay: str) -> None:
    """Exactly those whom some route of the service is for, and they may in turn get out to it."""
    policies = of_kind(overlay, "NetworkPolicy")
    assert policies[service]["spec"]["podSelector"] == {"matchLabels": {NAME: service}}
    allowed = set(peers(policies[service], "ingress"))
    assert allowed == {(caller, PORTS[service]) for caller in callers_of(service)}
    for caller in ("gateway", *SERVICES):
        gets_out = (service, PORTS[service]) in set(peers(policies[caller], "egress"))
        assert gets_out == (caller in callers_of(service))


@each_overlay
def test_the_network_lets_nothing_else_through(overlay: str) -> None:
    """Every pod is closed both ways to begin with, and labels that policies select by are labels of pods."""
    policies = of_kind(overlay, "NetworkPolicy")
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policies["nothing-else"]["spec"] == closed
    expected = {"nothing-else", "gateway", *SERVICES, "names", "databases", "outside", "monitoring"}
    assert policies.keys() == expected | ({"database"} if overlay == "dev" else set())
    selected = set(re.findall(rf"{NAME}: ([\w-]+)", rendered(overlay)))
    assert selected <= pods(overlay).keys()
    for name in ("databases", "outside", "monitoring"):
        [expression] = policies[name]["spec"]["podSelector"]["matchExpressions"]
        assert set(expression["values"]) == {*SERVICES} | ({"migrate"} if name == "databases" else set())
    if overlay == "production":
        assert policies["databases"]["spec"]["egress"][0]["to"], "not just any address"


def test_certificates_bear_the_names_of_services() -> None:
    """Whoever calls or is called has the certificate that says so, and nobody else's name."""
    certificates = of_kind("production", "Certificate")
    internal = {name: each["spec"] for name, each in certificates.items() if name != "front-door"}
    assert internal.keys() == {*SERVICES, "gateway", "migrate"}
    for name, spec in internal.items():
        assert spec["dnsNames"] == [name]
        assert spec["secretName"] == f"{name}-tls"
        assert spec["issuerRef"] == {"kind": "Issuer", "name": "shop"}
        assert ("server auth" in spec["usages"]) == (name in SERVICES)
    names = {str(service) for service in Service}
    assert set(certificates["front-door"]["spec"]["dnsNames"]).isdisjoint(names)
    mounted = {source["name"] for pod in pods("production").values() for source in sources_of(pod)}
    made = {each["spec"]["secretName"] for each in certificates.values()}
    assert {name for name in mounted if name.endswith("-tls")} == made


def test_what_production_needs_is_documented() -> None:
    """Secrets that nobody but the operator can make are in the README."""
    documented = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    mounted = {source["name"] for pod in pods("production").values() for source in sources_of(pod)}
    for name in {*mounted, "shop-ca"}:
        assert f"`{name}`" in documented or name.endswith("-tls"), name


def test_the_secrets_for_development_are_made(tmp_path: Path) -> None:
    """make-secrets of the overlay prints each secret that its pods mount, with the keys that they take from it."""
    rendered("dev")
    make_secrets(tmp_path)
    folder = tmp_path / "deploy" / "kubernetes" / "overlays" / "dev"
    folder.mkdir(parents=True)
    script = ROOT / "deploy" / "kubernetes" / "overlays" / "dev" / "make-secrets"
    (folder / "make-secrets").symlink_to(script)
    environment = {**os.environ, "KUBECONFIG": "/dev/null"}
    ended = subprocess.run([folder / "make-secrets"], capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    printed = [each for each in yaml.safe_load_all(ended.stdout) if each]
    made = {each["metadata"]["name"]: each["data"].keys() for each in printed if each["kind"] == "Secret"}
    assert {each["metadata"].get("namespace", "vv-dev") for each in printed} == {"vv-dev"}
    for pod in pods("dev").values():
        for source in sources_of(pod):
            assert {item["key"] for item in source.get("items", ())} <= made[source["name"]]
            assert made[source["name"]]
