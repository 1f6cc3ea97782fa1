"""Where the database server program comes from: this machine, or the Debian package ``mariadb-server-core``."""

import os
import shutil
import subprocess
from pathlib import Path

from vv.errors import Unavailable
from vv.output import Say

_PROGRAMS = ("mariadbd", "mysqld")
# Folders that an ordinary user's PATH often lacks.
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/local/libexec", "/usr/local/mysql/bin")
_PACKAGE = "mariadb-server-core"
_WHAT_TO_DO = (
    f"Install MariaDB (on Debian and Ubuntu: apt-get install {_PACKAGE}), or set ORDER_DATABASE_URL, "
    "INVENTORY_DATABASE_URL and PAYMENT_DATABASE_URL to databases of your own."
)


def find_or_install(say: Say) -> Path:
    """The server program, installed first where there is none and we may. Raises Unavailable."""
    program = find()
    if program is None:
        _install(say)
        program = find()
    if program is None:
        raise Unavailable(f"{_PACKAGE} was installed, but no mariadbd was found. {_WHAT_TO_DO}")
    return program


def find() -> Path | None:
    """The server program of this machine, or None."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), *_FOLDERS])
    found = (shutil.which(name, path=folders) for name in _PROGRAMS)
    return next((Path(path).resolve() for path in found if path), None)


def _install(say: Say) -> None:
    apt_get = shutil.which("apt-get")
    become_root = _become_root()
    if apt_get is None or become_root is None:
        raise Unavailable(f"No MariaDB server was found on this machine. {_WHAT_TO_DO}")
    apt = [*become_root, "env", "DEBIAN_FRONTEND=noninteractive", apt_get, "-qq", "-o", "DPkg::Lock::Timeout=120"]
    say("No MariaDB server was found on this machine.")
    package = _known_package()
    if package is None:
        say("Updating the package lists.")
        _run([*apt, "update"])
        package = _known_package() or _PACKAGE
    say(f"Installing the Debian package {package}.")
    install = [*apt, "install", "-y", "--no-install-recommends", package]
    try:
        _run(install)
    except Unavailable:
        # The lists may name a version that the mirror has replaced since.
        say("That failed; updating the package lists and trying again.")
        _run([*apt, "update"])
        _run(install)


def _become_root() -> list[str] | None:
    """What to put before a command to run it as root without being asked for a password; None if we may not."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    return None


def _known_package() -> str | None:
    """The package as the local lists have it: older Ubuntus put a version into its name."""
    search = ["apt-cache", "search", "--names-only", f"^{_PACKAGE}(-[0-9.]+)?$"]
    found = subprocess.run(search, capture_output=True, text=True, check=False).stdout.splitlines()
    return min((line.split()[0] for line in found), key=len, default=None)


def _run(command: list[str]) -> None:
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
        raise Unavailable(f"This failed: {shown}\n{result.stdout.strip()}\n{_WHAT_TO_DO}")
