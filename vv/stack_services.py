"""The three services of a stack: where they are, which settings they get, and when they are ready."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from common.errors import PROBLEM_CONTENT_TYPE
from vv import certs
from vv.children import check_start
from vv.output import Say
from vv.process import Child

PORTS = {"order": 8081, "inventory": 8082, "payment": 8083}

_START_TIMEOUT_S = 30.0
_POLL_INTERVAL_S = 0.03
# A start that takes longer than most is no riddle to who sits before it.
_SILENT_S = 2.0


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a program that is no service: their secrets are none of its business."""
    prefixes = tuple(f"{service.upper()}_" for service in PORTS)
    return {name: value for name, value in environment.items() if not name.startswith(prefixes)}


class Services:
    """What is to be known of the services before they run.

    :param port_offset: what to add to every port
    :param workers: the processes of each service; by default what its settings say
    :param environment: where their settings come from
    :param certificates: the folder of certificates with which every connection is encrypted; None for none
    """

    def __init__(
        self, port_offset: int, workers: int | None, environment: Mapping[str, str], certificates: Path | None
    ) -> None:
        self.ports = {service: port + port_offset for service, port in PORTS.items()}
        scheme = "https" if certificates else "http"
        self.urls = {service: f"{scheme}://127.0.0.1:{port}" for service, port in self.ports.items()}
        self._workers = workers
        self._environment = environment
        self._certificates = certificates

    def settings_of(self, service: str, database_url: str) -> dict[str, str]:
        """The environment of a service: ours, less what is for others, and where to find what it needs."""
        prefix = service.upper()
        others = tuple(f"{other.upper()}_" for other in PORTS if other != service)
        inherited = {
            name: value
            for name, value in self._environment.items()
            if not name.startswith(others) and not name.endswith(("_DATABASE_URL", "_DATABASE_URL_FILE"))
        }
        neighbours = {"ORDER_INVENTORY_URL": self.urls["inventory"], "ORDER_PAYMENT_URL": self.urls["payment"]}
        return {
            **inherited,
            **(neighbours if service == "order" else {}),
            **({f"{prefix}_WORKERS": str(self._workers)} if self._workers else {}),
            **self._tls_settings_of(service),
            f"{prefix}_DATABASE_URL": database_url,
            f"{prefix}_HOST": "127.0.0.1",
            f"{prefix}_PORT": str(self.ports[service]),
        }

    def _tls_settings_of(self, service: str) -> dict[str, str]:
        if self._certificates is None:
            return {}
        certificate, key, ca = certs.files_of(self._certificates, service)
        prefix = service.upper()
        return {
            f"{prefix}_TLS_CERTIFICATE": str(certificate),
            f"{prefix}_TLS_KEY": str(key),
            f"{prefix}_TLS_CA": str(ca),
        }

    async def wait_until_ready(self, children: Mapping[str, Child], say: Say) -> None:
        """Say what is waited for if it takes its time, each reason once.

        Raises Unavailable when one of the children, which have been started, ends or takes too long.
        """
        started = time.monotonic()
        deadline = started + _START_TIMEOUT_S
        said: set[str] = set()
        tls = certs.operator_tls(self._certificates) if self._certificates else True
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls), timeout=aiohttp.ClientTimeout(total=2)
        ) as session:
            for service, url in self.urls.items():
                while (why_not := await _why_not_ready(session, url)) is not None:
                    for each in PORTS:
                        check_start(children[each], deadline if each == service else None, why_not)
                    if time.monotonic() > started + _SILENT_S and why_not not in said:
                        said.add(why_not)
                        say(f"Still waiting for the {service} service: {why_not}")
                    await asyncio.sleep(_POLL_INTERVAL_S)


async def _why_not_ready(session: aiohttp.ClientSession, url: str) -> str | None:
    try:
        async with session.get(f"{url}/readyz") as response:
            if response.status == 200:
                return None
            if response.content_type != PROBLEM_CONTENT_TYPE:
                return f"/readyz answers {response.status}: {await response.text()}"
            return str((await response.json(content_type=None))["detail"])
    except (aiohttp.ClientError, TimeoutError):
        return "/readyz does not answer."
