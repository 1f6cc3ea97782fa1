"""deploy/gateway/follow-certificates.sh, which runs before nginx in its image."""

import contextlib
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import wait_until
from tests.front_door import GENEROUS, nginx_is_there
from tests.processes import free_port
from vv import certs
from vv.front_door import FrontDoor
from vv.process import leashed

SCRIPT = Path(__file__).parents[2] / "deploy" / "gateway" / "follow-certificates.sh"
# What the image does: the scripts run at the end of a pipeline, and thus in a shell that nginx does not replace.
ENTRYPOINT = """
set -e
find "$SCRIPTS" -follow -type f -print | sort -V | while read -r script; do "$script"; done
sleep "$NGINX_AFTER_S"
exec "$@"
"""
LOOK_EVERY_S = 0.1


class Container:
    """nginx as its image starts it, with certificates of its own; so many seconds after the scripts."""

    def __init__(self, folder: Path, nginx_after_s: float = 0.0) -> None:
        self.certificates = folder / "certs"
        certs.ensure(self.certificates)
        self._port = free_port()
        upstreams = dict.fromkeys(("order", "inventory", "payment"), "http://127.0.0.1:9")
        command = FrontDoor(folder, self._port, upstreams, self.certificates, GENEROUS).command()
        (folder / "scripts").mkdir()
        (folder / "scripts" / "90-follow-certificates.sh").symlink_to(SCRIPT)
        certificate, key, ca = map(str, certs.files_of(self.certificates, "gateway"))
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                leashed(["/bin/sh", "-c", ENTRYPOINT, "entrypoint", *command]),
                env={
                    **os.environ,
                    "SCRIPTS": str(folder / "scripts"),
                    "NGINX_AFTER_S": str(nginx_after_s),
                    "FRONT_DOOR_LOOK_EVERY_S": str(LOOK_EVERY_S),
                    "FRONT_DOOR_RUN_DIR": str(folder / "front-door"),
                    "FRONT_DOOR_CERTIFICATE": certificate,
                    "FRONT_DOOR_KEY": key,
                    "FRONT_DOOR_CLIENT_CERTIFICATE": certificate,
                    "FRONT_DOOR_CLIENT_KEY": key,
                    "FRONT_DOOR_CA": ca,
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def renew(self) -> None:
        certs.ensure(self.certificates, renew=True)

    def wait_until_it_shows_the_certificate(self) -> None:
        """That which is in the file now."""
        deadline = time.monotonic() + 10
        while self._shown() != (self.certificates / "gateway.crt").read_text().strip():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def times_told(self) -> int:
        """How often nginx was told, as the log has it."""
        return self._log.read_text().count('"event":"certificates_changed"')

    def close(self) -> None:
        """With all that is in it, as a container ends."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _shown(self) -> str | None:
        with contextlib.suppress(OSError):
            return ssl.get_server_certificate(("127.0.0.1", self._port)).strip()
        return None


@pytest.fixture(autouse=True)
def nginx() -> None:
    nginx_is_there()


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    with contextlib.closing(Container(tmp_path)) as made:
        yield made


def test_nginx_takes_over_what_is_renewed(container: Container) -> None:
    """Each time; and it is left alone while nothing changes."""
    container.wait_until_it_shows_the_certificate()
    time.sleep(3 * LOOK_EVERY_S)
    assert container.times_told() == 0
    for _ in range(2):
        container.renew()
        container.wait_until_it_shows_the_certificate()
    assert container.times_told() >= 2


def test_nginx_may_come_late(tmp_path: Path) -> None:
    """What is renewed before it is up does not end the watch, and it is told when it is there."""
    with contextlib.closing(Container(tmp_path, nginx_after_s=5 * LOOK_EVERY_S)) as container:
        time.sleep(LOOK_EVERY_S)
        container.renew()
        container.wait_until_it_shows_the_certificate()
        container.renew()
        container.wait_until_it_shows_the_certificate()


def test_it_is_told_once_for_a_change(container: Container) -> None:
    """Also of a file that is gone."""
    container.wait_until_it_shows_the_certificate()
    (container.certificates / "ca.crt").rename(container.certificates / "elsewhere.crt")
    wait_until(lambda: container.times_told() > 0)
    time.sleep(3 * LOOK_EVERY_S)
    assert container.times_told() == 1
