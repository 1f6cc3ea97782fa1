"""Programs that come from a Debian package, installed when they are missing and we may."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from vv.errors import Unavailable
from vv.output import Say

T = TypeVar("T")

_LOCKED_FOR_S = 120


@dataclass(frozen=True)
class Package:
    """A Debian package; ``missing`` says what was not found, ``what_to_do`` what its user can do."""

    name: str
    missing: str
    what_to_do: str


def find_or_install(find: Callable[[], T | None], package: Package, say: Say) -> T:
    """What ``find`` finds, its package installed first if that is nothing, and we may. Blocks. Raises Unavailable."""
    found = find()
    if found is None:
        install(package, say)
        found = find()
    if found is None:
        raise Unavailable(f"{package.name} was installed. {package.missing} {package.what_to_do}")
    return found


def install(package: Package, say: Say) -> None:
    """Install the package. Blocks. Raises Unavailable."""
    apt_get = shutil.which("apt-get")
    become_root = _become_root()
    if apt_get is None or become_root is None:
        raise Unavailable(f"{package.missing} {package.what_to_do}")
    # In run level 1 (single user) packages start no server of their own when they are installed.
    environment = ["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"]
    waiting = ["-o", f"DPkg::Lock::Timeout={_LOCKED_FOR_S}"]
    apt = [*become_root, "env", *environment, apt_get, "-qq", *waiting]
    say(package.missing)
    known = _known_name(package)
    if known is None:
        say("Updating the package lists.")
        _update(apt, package)
        known = _known_name(package) or package.name
    say(f"Installing the Debian package {known}.")
    command = [*apt, "install", "-y", "--no-install-recommends", known]
    try:
        _run(command, package)
    except Unavailable:
        # The lists may name a version that the mirror has replaced since.
        say("That failed; updating the package lists and trying again.")
        _update(apt, package)
        _run(command, package)


def _become_root() -> list[str] | None:
    """What to put before a command to run it as root without being asked for a password; None if we may not."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    return None


def _known_name(package: Package) -> str | None:
    """The package as the local lists have it: older Ubuntus put a version into the names of some."""
    search = ["apt-cache", "search", "--names-only", f"^{re.escape(package.name)}(-[0-9.]+)?$"]
    found = subprocess.run(search, capture_output=True, text=True, check=False).stdout.splitlines()
    return min((line.split()[0] for line in found), key=len, default=None)


def _update(apt: list[str], package: Package) -> None:
    """Update the package lists; while somebody else does, wait. apt waits by itself for other locks only."""
    deadline = time.monotonic() + _LOCKED_FOR_S
    while True:
        try:
            return _run([*apt, "update"], package)
        except Unavailable as error:
            if "Could not get lock" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(1)


def _run(command: list[str], package: Package) -> None:
    # A session of its own, so that Ctrl-C does not interrupt dpkg half-way.
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        check=False,
    )
    if result.returncode != 0:
        shown = " ".join(command[command.index("-qq") - 1 :])
        raise Unavailable(f"This failed: {shown}\n{result.stdout.strip()}\n{package.what_to_do}")
