"""nginx as the front door, as a real process, and upstreams that write down what reaches them."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from tests.e2e.raw import Server
from tests.processes import free_port
from vv import apt, nginx_program
from vv.front_door import FrontDoor
from vv.output import say_aside
from vv.process import leashed

_READY_WITHIN_S = 20.0
# No test is about these unless it says so.
GENEROUS = {
    "FRONT_DOOR_RATE_PER_IP": "100000r/s",
    "FRONT_DOOR_BURST_PER_IP": "100000",
    "FRONT_DOOR_RATE_PER_USER": "100000r/s",
    "FRONT_DOOR_BURST_PER_USER": "100000",
    "FRONT_DOOR_CONNECTIONS_PER_IP": "10000",
}


class FrontDoorProcess(Server):
    """A front door on a port of its own, with raw calls over TLS. Each comes from ``source``.

    :param folder: an empty folder
    :param upstreams: the base URL of each service
    :param certificates: the folder with the certificates
    :param settings: variables of ``deploy/gateway/defaults.env``; limits are generous by default
    """

    def __init__(self, folder: Path, upstreams: Mapping[str, str], certificates: Path, **settings: str) -> None:
        self.door = FrontDoor(folder, free_port(), upstreams, certificates, {**GENEROUS, **settings})
        super().__init__(self.door.url)
        self.log = folder / "front-door.log"
        self.source = "127.0.0.1"
        self.tls = ssl.create_default_context(cafile=str(self.door.ca))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                leashed(self.door.command()), stdout=log, stderr=log, env=os.environ, start_new_session=True
            )
        deadline = time.monotonic() + _READY_WITHIN_S
        while not self.is_ready():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return self

    def is_ready(self) -> bool:
        try:
            return self.get("/livez").status == 200
        except OSError:
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """SIGTERM, which cuts off running requests; the exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(20)

    def connect(self) -> socket.socket:
        connection = self.connect_plainly()
        try:
            return self.tls.wrap_socket(connection, server_hostname="127.0.0.1")
        except OSError:
            connection.close()
            raise

    def connect_plainly(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=30, source_address=(self.source, 0))

    def log_lines(self) -> list[dict[str, Any]]:
        """The access log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]


def nginx_is_there() -> None:
    """Install nginx where it is not, and we may; its package must not start a server. Raises Unavailable."""
    apt.find_or_install(nginx_program.find, nginx_program.PACKAGE, say_aside)


Answer = Callable[[bytes, int], bytes | None]


def answers_ok(_: bytes, __: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Upstream:
    """A server that keeps every byte that it gets, and answers each request as ``answer`` says: with these bytes, or by
    hanging up. ``answer`` is given the head, and how many requests have come before on all upstreams that share it."""

    def __init__(self, answer: Answer = answers_ok, address: str = "127.0.0.1") -> None:
        self.answer = answer
        self.connections: list[bytearray] = []
        self._socket = socket.create_server((address, 0), backlog=512)
        self.address = f"{address}:{self._socket.getsockname()[1]}"
        self.url = f"http://{self.address}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def requests(self) -> list[str]:
        """The heads of the requests that came."""
        return [head for data in self.connections for head in heads_in(bytes(data))]

    @property
    def whole_requests(self) -> list[bytes]:
        return [head for data in self.connections for head in whole_requests_in(bytes(data))]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        kept = bytearray()
        self.connections.append(kept)
        answered = 0
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                kept += data
                for head in whole_requests_in(bytes(kept))[answered:]:
                    answered += 1
                    reply = self.answer(head, len(self.requests))
                    if reply is None:
                        return
                    connection.sendall(reply)


def heads_in(data: bytes) -> list[str]:
    """Each request head, however little of it came."""
    starts = [match.start() for match in re.finditer(rb"[A-Z]+ \S+ HTTP/1\.[01]\r\n", data)]
    return [data[start:].split(b"\r\n\r\n")[0].decode("latin-1") for start in starts]


def whole_requests_in(data: bytes) -> list[bytes]:
    """The heads of the requests whose body is there, too."""
    found = []
    while b"\r\n\r\n" in data:
        head, rest = data.split(b"\r\n\r\n", 1)
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
            end = re.search(rb"(?:^|\r\n)0\r\n\r\n", rest)
            if end is None:
                break
            data = rest[end.end() :]
        else:
            size = int(length[1]) if length else 0
            if len(rest) < size:
                break
            data = rest[size:]
        found.append(head)
    return found
