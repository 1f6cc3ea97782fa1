"""nginx as the front door of a stack: its configuration, made from ``deploy/gateway``, and how to run it."""

import asyncio
import contextlib
import os
import re
import signal
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import aiohttp

from vv import certs, nginx_program
from vv.authority import Pair
from vv.children import check_start
from vv.errors import Unavailable
from vv.folder import make_private, write_whole
from vv.process import Child
from vv.stack_services import without_settings

PORT = 8443

_START_TIMEOUT_S = 20.0
_POLL_INTERVAL_S = 0.03
_LOOK_EVERY_S = 1.0
_PREFIX = "FRONT_DOOR_"
_SOURCES = Path(__file__).parents[1] / "deploy" / "gateway"
_VARIABLE = re.compile(r"\$\{([A-Z_]+)\}")


class Nginx(Child):
    """nginx as a child: master and workers."""

    # SIGTERM would cut off the requests that are being answered.
    stop_signal = signal.SIGQUIT

    async def start(self) -> None:
        if self.pid is not None:
            # The workers of a master that was killed live on, and hold the port.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await super().start()


class FrontDoor:
    """The front door of a data folder, for this machine only.

    :param data_dir: the data folder; ``front-door`` in it is for nginx
    :param port: the port on 127.0.0.1
    :param upstreams: the base URL of each service
    :param certificates: the folder with the certificates
    :param environment: where variables of ``defaults.env`` may have other values
    """

    def __init__(
        self,
        data_dir: Path,
        port: int,
        upstreams: Mapping[str, str],
        certificates: Path,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.port = port
        self.log = data_dir / "logs" / "front-door.log"
        self._data_dir = data_dir
        self._folder = data_dir / "front-door"
        self._upstreams = upstreams
        self._certificate, self._key, self.ca = certs.files_of(certificates, certs.FRONT_DOOR)
        self._environment = environment

    def prepare(self) -> Nginx:
        """Write and check the configuration. Blocks. Raises Unavailable."""
        environment = without_settings(self._environment)
        return Nginx("front door", self.command(), environment, self._data_dir, self.log)

    def command(self) -> list[str]:
        """Write the configuration, have nginx check it, and give the command that runs it in the foreground. Blocks.

        Raises Unavailable.
        """
        program = nginx_program.require()
        make_private(self._folder)
        given = {name: text for name, text in self._environment.items() if name.startswith(_PREFIX)}
        configuration = self._folder / "nginx.conf"
        write_whole(configuration, render(template(), defaults() | given | self._own_values()))
        command = [str(program), "-p", f"{self._folder}/", "-c", str(configuration), "-e", "stderr"]
        # A variable may have a value that nginx does not take; it names the line.
        checked = subprocess.run([*command, "-t", "-q"], capture_output=True, text=True, check=False)
        if checked.returncode != 0:
            raise Unavailable(f"nginx does not take {configuration}:\n{checked.stderr.strip()}")
        return [*command, "-g", "daemon off;"]

    async def wait_until_ready(self, child: Child) -> None:
        """Raises Unavailable when the child ends or takes too long."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=self.ca))
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=2)) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self.url}/livez") as response:
                        if response.status == 200:
                            return
                check_start(child, deadline, "it does not answer")
                await asyncio.sleep(_POLL_INTERVAL_S)

    async def follow_certificates(self, child: Child) -> NoReturn:
        """Have nginx read the certificates again whenever they have changed, and no request fail for it."""
        seen = self._read_certificates()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            found = self._read_certificates()
            if found != seen and Pair.read(self._certificate.parent, self._certificate.stem) is not None:
                child.send(signal.SIGHUP)
                seen = found

    def _read_certificates(self) -> list[bytes]:
        return [path.read_bytes() if path.exists() else b"" for path in (self._certificate, self._key, self.ca)]

    def _own_values(self) -> dict[str, str]:
        scheme, *others = {url.partition("://")[0] for url in self._upstreams.values()}
        assert not others, "services of one stack have one scheme"
        return {
            **{f"{name.upper()}_UPSTREAM": url.partition("://")[2] for name, url in self._upstreams.items()},
            "FRONT_DOOR_ADDRESS": f"127.0.0.1:{self.port}",
            "FRONT_DOOR_RUN_DIR": str(self._folder),
            "FRONT_DOOR_UPSTREAM_SCHEME": scheme,
            "FRONT_DOOR_CERTIFICATE": str(self._certificate),
            "FRONT_DOOR_KEY": str(self._key),
            "FRONT_DOOR_CLIENT_CERTIFICATE": str(self._certificate),
            "FRONT_DOOR_CLIENT_KEY": str(self._key),
            "FRONT_DOOR_CA": str(self.ca),
            # A browser would insist on TLS for whatever else is served on localhost.
            "FRONT_DOOR_HSTS_SECONDS": "0",
        }


def template() -> str:
    return _read("nginx.conf.template")


def variables() -> set[str]:
    """What the template takes. Raises Unavailable outside of a checkout."""
    return set(_VARIABLE.findall(template()))


def default_lines() -> list[str]:
    """``defaults.env``, with its comments."""
    return _read("defaults.env").splitlines()


def defaults() -> dict[str, str]:
    """The values that need not be given."""
    lines = (line.strip() for line in default_lines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def render(text: str, values: Mapping[str, str]) -> str:
    """As envsubst does it, but for a variable that has no value: KeyError."""
    return _VARIABLE.sub(lambda match: values[match[1]], text)


def _read(name: str) -> str:
    try:
        return (_SOURCES / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise Unavailable(f"{_SOURCES} is not there: run vv from a checkout of the repository.") from error
