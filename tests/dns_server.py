"""A real DNS server, dnsmasq, on a port of its own; what it says can be changed at any time."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from tests.processes import free_port
from vv import apt
from vv.apt import Package
from vv.errors import Unavailable
from vv.output import say_aside

DOMAIN = "shop.test"
TTL_S = 1
_UP_WITHIN_S = 5.0
_PACKAGE = Package(
    "dnsmasq-base",
    missing="No dnsmasq was found on this machine, so there is no DNS server to test with.",
    what_to_do="Install it (on Debian and Ubuntu: apt-get install dnsmasq-base).",
)


class Srv(NamedTuple):
    """An SRV record: an instance of ``service``, on this machine if its host has no other address."""

    service: str
    host: str
    port: int
    priority: int = 0
    weight: int = 0
    address: str = "127.0.0.1"


class DnsServer:
    """Knows the domain ``shop.test`` and nothing else; what it says is good for a second."""

    def __init__(self) -> None:
        self._program = apt.find_or_install(_find, _PACKAGE, say_aside)
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self, records: Iterable[Srv]) -> None:
        """Say this from now on. It reads SRV records at its start only, so it is away for a moment."""
        self.stop()
        told = []
        for service, host, port, priority, weight, address in records:
            told.append(f"--srv-host=_{service}._tcp.{DOMAIN},{host}.{DOMAIN},{port},{priority},{weight}")
            told.append(f"--host-record={host}.{DOMAIN},{address}")
        self._process = subprocess.Popen(
            [
                self._program,
                # Not only in the foreground, but without children, which would hold the port when it is killed.
                "--no-daemon",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--listen-address=127.0.0.1",
                "--bind-interfaces",
                f"--port={self._port}",
                f"--local=/{DOMAIN}/",
                f"--local-ttl={TTL_S}",
                *told,
            ],
            stderr=subprocess.DEVNULL,
        )
        self._wait()

    def stop(self) -> None:
        """No DNS any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _UP_WITHIN_S
        while True:
            assert self._process.poll() is None, "dnsmasq did not start"
            assert time.monotonic() < deadline
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return


@contextmanager
def dns_server() -> Iterator[DnsServer]:
    """A server that says nothing yet. Without dnsmasq the test is skipped, and says why."""
    try:
        server = DnsServer()
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        yield server
    finally:
        server.stop()


def _find() -> str | None:
    # An ordinary user's PATH lacks the folder.
    return shutil.which("dnsmasq", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
