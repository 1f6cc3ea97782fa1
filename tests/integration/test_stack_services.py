"""How ``vv up`` waits for its services."""

from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from common.errors import PROBLEM_CONTENT_TYPE, ServiceUnavailable
from vv import stack_services
from vv.errors import Unavailable
from vv.process import Child
from vv.stack_services import PORTS, Services

NO_KEYS = "The keys of the issuer http://127.0.0.1:9 (AUTH_ISSUER) could not be fetched yet."


class Running:
    """A child that does not end."""

    name = "order service"
    has_ended = False

    def last_lines(self) -> str:
        return "issuer_unavailable"


async def waited(monkeypatch: pytest.MonkeyPatch, *, answers_until_ready: int) -> list[str]:
    """What is said while services answer so often that they lack an issuer's keys; all of them are one server here."""
    left = answers_until_ready

    async def readyz(_: web.Request) -> web.Response:
        nonlocal left
        left -= 1
        if left < 0:
            return web.json_response({"status": "ready"})
        problem = ServiceUnavailable(NO_KEYS).to_problem()
        return web.json_response(problem, status=503, content_type=PROBLEM_CONTENT_TYPE)

    app = web.Application()
    app.router.add_get("/readyz", readyz)
    said: list[str] = []
    async with TestServer(app) as server:
        services = Services(0, None, {}, None)
        monkeypatch.setattr(services, "urls", dict.fromkeys(PORTS, str(server.make_url("")).rstrip("/")))
        children: dict[str, Any] = dict.fromkeys(PORTS, Running())
        await services.wait_until_ready(cast(dict[str, Child], children), said.append)
    return said


async def test_a_start_that_takes_long_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, in the words of the service, which name the setting."""
    monkeypatch.setattr(stack_services, "_SILENT_S", 0.1)
    assert await waited(monkeypatch, answers_until_ready=10) == [f"Still waiting for the order service: {NO_KEYS}"]


async def test_a_start_that_is_as_quick_as_most_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has to wait for a moment only is left alone."""
    assert await waited(monkeypatch, answers_until_ready=3) == []


async def test_a_start_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the reason, and with the end of the log."""
    monkeypatch.setattr(stack_services, "_START_TIMEOUT_S", 0.2)
    with pytest.raises(Unavailable, match="AUTH_ISSUER") as ended:
        await waited(monkeypatch, answers_until_ready=1_000)
    assert "issuer_unavailable" in ended.value.message
