"""`make advisories` can fail, and does when it should."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests import advisories
from tests.processes import free_port

REQUIREMENTS = sorted((Path(__file__).parents[2] / "requirements").glob("*.txt"))


class Osv(ThreadingHTTPServer):
    """The protocol of OSV, with advisories of one's own: by package, the versions that are concerned."""

    daemon_threads = True

    def __init__(self, known: dict[str, str], status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.known = known
        self.status = status
        self.asked: set[tuple[str, str]] = set()
        self.url = f"http://127.0.0.1:{self.server_port}/v1/query"

    def advisories(self, package: dict[str, str], version: str) -> dict[str, Any]:
        self.asked.add((package["name"], version))
        if self.known.get(package["name"]) != version:
            return {}
        return {"vulns": [{"id": "PYSEC-2026-1", "summary": "It is broken.", "affected": [{"package": package}]}]}


class _Handler(BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(self.server.advisories(question["package"], question["version"])).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def osv(monkeypatch: pytest.MonkeyPatch, known: dict[str, str], status: int = 200) -> Iterator[Osv]:
    with Osv(known, status) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OSV_URL", server.url)
        yield server
        server.shutdown()


def pinned() -> dict[str, str]:
    lines = [line.split(" ")[0] for file in REQUIREMENTS for line in file.read_text().splitlines() if "==" in line]
    return dict(line.split("==") for line in lines)


def test_an_advisory_fails_the_check(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A known vulnerability of a version that is pinned: exit code 1, and which it is."""
    version = pinned()["aiohttp"]
    with osv(monkeypatch, {"aiohttp": version}):
        assert advisories.main() == 1
    assert f"aiohttp {version}" in " ".join(capfd.readouterr().out.split())


def test_every_pinned_version_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all requirements files; an advisory about another version does not fail the check."""
    with osv(monkeypatch, {"aiohttp": "0.1"}) as database:
        assert advisories.main() == 0
    # The rest is for other systems.
    assert database.asked < {*pinned().items(), ("vv-ecommerce", "0")}
    assert len(database.asked) > 0.9 * len(pinned())


@pytest.mark.parametrize("required", ["", "1"])
def test_no_database_is_said_plainly(
    required: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one sentence; it fails only where the audit is required."""
    monkeypatch.setenv("OSV_URL", f"http://127.0.0.1:{free_port()}/v1/query")
    monkeypatch.setenv("REQUIRE_ADVISORIES", required)
    assert advisories.main() == (1 if required else 0)
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("Dependencies were not audited")


def test_a_database_that_is_out_of_order_is_none(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A 5xx, or the page of a proxy, says nothing about any package."""
    with osv(monkeypatch, {}, status=503):
        assert advisories.main() == 0
    assert "not audited" in capfd.readouterr().err
