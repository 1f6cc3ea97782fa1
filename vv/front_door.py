"""nginx as the front door of a stack: its configuration, made from ``deploy/gateway``, and how to run it."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vv import nginx_program
from vv.errors import Unavailable
from vv.folder import make_private, write_whole

PORT = 8443
NAME = "gateway"

_PREFIX = "FRONT_DOOR_"
_SOURCES = Path(__file__).parents[1] / "deploy" / "gateway"
_VARIABLE = re.compile(r"\$\{([A-Z_]+)\}")


class FrontDoor:
    """The nginx of a data folder, for this machine only.

    :param folder: where its configuration goes, and what it writes
    :param port: the port on 127.0.0.1
    :param upstreams: the base URL of each service
    :param certificates: the folder with the certificates
    """

    def __init__(self, folder: Path, port: int, upstreams: Mapping[str, str], certificates: Path) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.ca = certificates / "ca.crt"
        self._folder = folder
        self._port = port
        self._upstreams = upstreams
        self._certificates = certificates

    @property
    def configuration(self) -> Path:
        return self._folder / "nginx.conf"

    def prepare(self, environment: Mapping[str, str]) -> list[str]:
        """Write the configuration, have nginx check it, and give the command that runs it in the foreground. Blocks.

        Raises Unavailable.
        """
        program = nginx_program.require()
        make_private(self._folder)
        values = defaults() | {name: text for name, text in environment.items() if name.startswith(_PREFIX)}
        write_whole(self.configuration, render(template(), values | self._own_values()))
        command = [str(program), "-p", f"{self._folder}/", "-c", str(self.configuration), "-e", "stderr"]
        # What it is called with, not what is in it, may be wrong in a hundred ways; nginx names the line.
        checked = subprocess.run([*command, "-t", "-q"], capture_output=True, text=True, check=False)
        if checked.returncode != 0:
            raise Unavailable(f"nginx does not take its configuration:\n{checked.stderr.strip()}")
        return [*command, "-g", "daemon off;"]

    def _own_values(self) -> dict[str, str]:
        scheme, *others = {url.partition("://")[0] for url in self._upstreams.values()}
        assert not others, "services of one stack have one scheme"
        certificate, key = self._certificates / f"{NAME}.crt", self._certificates / f"{NAME}.key"
        return {
            **{f"{name.upper()}_UPSTREAM": url.partition("://")[2] for name, url in self._upstreams.items()},
            "FRONT_DOOR_ADDRESS": f"127.0.0.1:{self._port}",
            "FRONT_DOOR_RUN_DIR": str(self._folder),
            "FRONT_DOOR_UPSTREAM_SCHEME": scheme,
            "FRONT_DOOR_CERTIFICATE": str(certificate),
            "FRONT_DOOR_KEY": str(key),
            "FRONT_DOOR_CLIENT_CERTIFICATE": str(certificate),
            "FRONT_DOOR_CLIENT_KEY": str(key),
            "FRONT_DOOR_CA": str(self.ca),
            # A browser would insist on TLS for whatever else is served on localhost.
            "FRONT_DOOR_HSTS_SECONDS": "0",
        }


def template() -> str:
    return _read("nginx.conf.template")


def defaults() -> dict[str, str]:
    """The values that need not be given."""
    lines = (line.strip() for line in _read("defaults.env").splitlines())
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
