"""``python -m vv.probe``: whether the service in this container answers; for health checks.

Nothing but the standard library, and of that little: it is run every few seconds, by somebody who waits for it.
"""

import os
import socket
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

PORTS = {"order": 8081, "inventory": 8082, "payment": 8083}

_USAGE = "usage: python -m vv.probe [order|inventory|payment] [/readyz]"
_TIMEOUT_S = 4.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def main(arguments: list[str], environment: Mapping[str, str] = os.environ) -> int:
    """0 when the service answers the path with 200, 1 when it does not, 2 for wrong usage.

    The service is the one that process 1 runs, unless it is named; the path is ``/readyz``. Where it is, and which
    certificate it wants to see, is read from the environment as the service does.
    """
    service = next((each for each in arguments if each in PORTS), None) or _service_of_this_container()
    path = next((each for each in arguments if each.startswith("/")), "/readyz")
    if service is None or set(arguments) - {service, path}:
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        answer = _ask(address(service, environment), _context(service, environment), path)
    except OSError as error:
        answer = str(error)
    if answer.split(" ")[1:2] == ["200"]:
        return 0
    print(f"{service}{path}: {answer or 'no answer'}", file=sys.stderr)
    return 1


def address(service: str, environment: Mapping[str, str]) -> tuple[str, int]:
    """Where the service listens, seen from this machine."""
    host = environment.get(f"{service.upper()}_HOST") or "127.0.0.1"
    port = environment.get(f"{service.upper()}_PORT") or PORTS[service]
    return _ANY.get(host, host), int(port)


def tls_files(service: str, environment: Mapping[str, str]) -> list[str]:
    """Certificate, key and CA of the service; empty where connections need none."""
    names = ("TLS_CERTIFICATE", "TLS_KEY", "TLS_CA")
    files = [environment.get(f"{service.upper()}_{name}") or environment.get(name) or "" for name in names]
    return files if all(files) else []


def _context(service: str, environment: Mapping[str, str]) -> ssl.SSLContext | None:
    files = tls_files(service, environment)
    if not files:
        return None
    certificate, key, ca = files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # It is reached at an address that its certificate need not bear.
    context.check_hostname = False
    context.load_verify_locations(ca)
    context.load_cert_chain(certificate, key)
    return context


def _ask(where: tuple[str, int], tls: ssl.SSLContext | None, path: str) -> str:
    """The first line of the answer."""
    with socket.create_connection(where, timeout=_TIMEOUT_S) as plain:
        connection = tls.wrap_socket(plain) if tls else plain
        with connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return connection.makefile("rb").readline(200).decode("latin-1").strip()


def _service_of_this_container() -> str | None:
    """An init process has what it runs on its own command line."""
    try:
        words = Path("/proc/1/cmdline").read_bytes().decode().split("\0")
    except (OSError, UnicodeError):
        return None
    return next((service for service in PORTS if f"{service}_service" in words), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
