"""``make image-check``: build the image's root without a container engine, and run what is in it. Needs root.

The Dockerfile's steps are carried out in a bare Debian (debootstrap) that has this machine's Python where the base
image has its own. Then the migrations and the three services run in it as they would in a container: as process 1,
nobody in particular, without capabilities, on a read-only file system, with TLS to everybody and to a real MariaDB.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.image import dockerfile
from tests.image.accounts import make_accounts
from tests.image.build import build, download, make_base
from tests.image.container import Container
from tests.image.dockerfile import Stage
from tests.processes import free_port
from vv import certs
from vv.mariadb import Mariadb

ROOT = Path(__file__).parents[2]
SERVICES = ("inventory", "payment", "order")
_PASSWORD = "image-check"


def main() -> None:
    flags = _read_flags()
    folder = Path(tempfile.mkdtemp(prefix="image-check-"))
    try:
        with _services_stopped_on_failure() as started:
            base = flags.base or folder / "base"
            if not base.exists():
                make_base(base, flags.python, flags.suite, _say)
            _check(flags.python, base, folder, started)
    finally:
        shutil.rmtree(folder)
    _say("The image works.")


def _check(python: Path, base: Path, folder: Path, started: list[Container]) -> None:
    # Not the load tests, which nobody deploys.
    stages = [stage for stage in dockerfile.read(ROOT / "Dockerfile") if stage.name in ("build", "runtime")]
    (folder / "roots").mkdir()
    (folder / "wheels").mkdir()
    download(python, ROOT / "requirements" / "image.txt", folder / "wheels")
    root = build(stages, base, folder / "roots", ROOT, folder / "wheels", _say)
    _inspect(root)

    secrets = folder / "secrets"
    certs.ensure(secrets)
    server = Mariadb(folder / "database", free_port(), secrets)
    with server.running(_say):
        make_accounts(server, secrets, _PASSWORD)
        _readable(secrets)
        _run(root, stages[-1], secrets, server, folder, started)


def _inspect(root: Path) -> None:
    """What must not be there, and what must."""
    unwanted = ["pip", "pip3", "gcc", "cc", "make", "git", "curl"]
    found = [
        name for name in unwanted if list(root.glob(f"usr/**/bin/{name}")) or list(root.glob(f"opt/vv/bin/{name}"))
    ]
    assert not found, f"in the image: {found}"
    without = [
        path
        for path in root.glob("opt/vv/lib/**/*.py")
        if not list((path.parent / "__pycache__").glob(f"{path.stem}.*"))
    ]
    assert not without, f"not compiled: {without[:5]}"
    own = subprocess.run(
        ["find", "opt/vv", "-perm", "/022", "-not", "-type", "l", "-o", "-not", "-user", "root"],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert not own, f"somebody could change: {own[:200]}"
    size = subprocess.run(["du", "-sm", "opt/vv"], cwd=root, capture_output=True, text=True, check=True).stdout
    _say(f"/opt/vv has {size.split()[0]} MB; no pip, no compiler; all of it is compiled, and only root may change it.")


def _run(root: Path, image: Stage, secrets: Path, server: Mariadb, folder: Path, started: list[Container]) -> None:
    """Migrate, wait for the migrations, serve, end."""
    where = f"127.0.0.1:{server.port}"
    files = "ssl_ca=/run/secrets/ca.crt&ssl_cert=/run/secrets/migrate.crt&ssl_key=/run/secrets/migrate.key"
    urls = {service: f"mysql://{service}:{_PASSWORD}@{where}/{service}_db" for service in SERVICES}
    migrating = {f"{service.upper()}_DATABASE_URL": url for service, url in urls.items()} | {
        f"{service.upper()}_MIGRATION_DATABASE_URL": f"mysql://migrate:{_PASSWORD}@{where}/{service}_db?{files}"
        for service in SERVICES
    }

    def container(command: str, settings: dict[str, str]) -> Container:
        each = Container(root, image, secrets, command.split(), settings, folder / f"{len(started)}.log")
        started.append(each)
        return each.start()

    settings = {service: _settings(service, url) for service, url in urls.items()}
    ports = {service: free_port() for service in SERVICES}
    for service in SERVICES:
        settings[service][f"{service.upper()}_PORT"] = str(ports[service])
        settings[service][f"{service.upper()}_WORKERS"] = "2" if service == "payment" else "1"
    settings["order"] |= {
        "ORDER_INVENTORY_URL": f"https://127.0.0.1:{ports['inventory']}",
        "ORDER_PAYMENT_URL": f"https://127.0.0.1:{ports['payment']}",
        # What makes traces is in the image, or the service would refuse this.
        "ORDER_TRACE_ENDPOINT": "http://127.0.0.1:9",
        "ORDER_TRACE_SAMPLE_RATIO": "0",
    }

    for command in ("order_service", "vv migrate wait --service order"):
        early = container(command, settings["order"])
        early.wait_until_executed()
        assert early.terminate() == 143, early.output
        _say(f"{command}: ends when it is told to while it starts, as process 1, too.")
    waiting = container("vv migrate wait --service order", settings["order"])
    migrated = container("vv migrate apply --grant", migrating)
    assert migrated.wait() == 0, migrated.output
    assert waiting.wait() == 0, waiting.output
    _say("vv migrate apply --grant: done; who waited for it went on.")

    running = {service: container(f"{service}_service", settings[service]) for service in SERVICES}
    for service, each in running.items():
        seconds = each.wait_until_healthy()
        began = time.monotonic()
        assert each.execute(image.health_check) == 0
        took = time.monotonic() - began
        _say(f"{service}_service: /readyz 200 after {seconds:.1f} s; a health check takes {took:.2f} s.")
        assert each.execute(["sh", "-c", "echo x > /opt/x || echo x > /usr/local/x || echo x > /x"]) != 0
        _look_at(each)
    for service in reversed(SERVICES):
        code = running[service].terminate()
        assert code == 0, f"{code}: {running[service].output[-2_000:]}"
        assert running[service].output.splitlines()[-1].count("stopped"), running[service].output[-500:]
        _say(f"{service}_service: SIGTERM to process 1, exit code {code}.")


def _settings(service: str, url: str) -> dict[str, str]:
    prefix = service.upper()
    files = {"CERTIFICATE": f"{service}.crt", "KEY": f"{service}.key", "CA": "ca.crt"}
    return {
        f"{prefix}_DATABASE_URL": url,
        f"{prefix}_HOST": "0.0.0.0",
        **{f"{prefix}_TLS_{kind}": f"/run/secrets/{file}" for kind, file in files.items()},
    }


def _look_at(each: Container) -> None:
    """It is process 1 of its world, an ordinary user, and can become nothing else."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{each.pid}/status").read_text().splitlines() if ":" in line
    )
    found = {name: status[name].split() for name in ("NSpid", "Uid", "CapEff", "CapBnd", "NoNewPrivs")}
    assert found["NSpid"][-1] == "1", found
    assert set(found["Uid"]) == {"10001"}, found
    assert found["CapEff"] == found["CapBnd"] == ["0000000000000000"], found
    assert found["NoNewPrivs"] == ["1"], found


def _readable(secrets: Path) -> None:
    """As deploy/make-secrets leaves them: whoever is in a container may read them, whatever his number."""
    for path in secrets.iterdir():
        path.chmod(0o644)
    secrets.chmod(0o755)


@contextmanager
def _services_stopped_on_failure() -> Iterator[list[Container]]:
    started: list[Container] = []
    try:
        yield started
    finally:
        for each in started:
            with contextlib.suppress(OSError):
                each.kill()


def _read_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.image", description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="a Python 3.13 of this machine, with pip")
    parser.add_argument("--suite", default="bookworm", help="the Debian of the base image (%(default)s)")
    parser.add_argument("--base", type=Path, help="keep what stands in for the base image in this folder")
    flags = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        parser.error("needs root, and debootstrap (apt-get install debootstrap)")
    return flags


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
