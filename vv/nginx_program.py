"""Where nginx comes from: this machine. A stack never installs it, as its package starts a server of its own."""

import os
import shutil
from pathlib import Path

from vv import apt
from vv.errors import Unavailable

# Folders that an ordinary user's PATH often lacks.
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/nginx/sbin")
PACKAGE = apt.Package(
    "nginx-light",
    missing="No nginx was found on this machine.",
    what_to_do="Install nginx (on Debian and Ubuntu: apt-get install nginx-light), or leave --front-door out.",
)


def require() -> Path:
    """The program. Raises Unavailable."""
    program = find()
    if program is None:
        raise Unavailable(f"{PACKAGE.missing} {PACKAGE.what_to_do}")
    return program


def find() -> Path | None:
    """The program, or None."""
    found = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_FOLDERS]))
    return Path(found).resolve() if found else None
