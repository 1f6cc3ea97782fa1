"""Where the database server program comes from: ``VV_DATABASE_PROGRAM``, this machine, or the Debian package
``mariadb-server-core``."""

import os
import shutil
from pathlib import Path

from vv import apt
from vv.errors import Unavailable
from vv.output import Say

PROGRAM_VARIABLE = "VV_DATABASE_PROGRAM"
_PROGRAMS = ("mariadbd", "mysqld")
# Folders that an ordinary user's PATH often lacks.
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/local/libexec", "/usr/local/mysql/bin")
_PACKAGE = apt.Package(
    "mariadb-server-core",
    missing="No MariaDB server was found on this machine.",
    what_to_do="Install MariaDB (on Debian and Ubuntu: apt-get install mariadb-server-core), or set "
    "ORDER_DATABASE_URL, INVENTORY_DATABASE_URL and PAYMENT_DATABASE_URL to databases of your own.",
)


def find_or_install(say: Say) -> Path:
    """The server program, installed first where there is none and we may. Raises Unavailable."""
    return apt.find_or_install(find, _PACKAGE, say)


def find() -> Path | None:
    """The server program that ``VV_DATABASE_PROGRAM`` names, else that of this machine, or None. Raises Unavailable."""
    named = os.environ.get(PROGRAM_VARIABLE)
    if named:
        program = shutil.which(named)
        if program is None:
            raise Unavailable(f"{PROGRAM_VARIABLE} is {named}, and that is no program.")
        return Path(program).resolve()
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), *_FOLDERS])
    found = (shutil.which(name, path=folders) for name in _PROGRAMS)
    return next((Path(path).resolve() for path in found if path), None)
