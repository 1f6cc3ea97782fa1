"""Where ``wrk`` comes from: this machine, or the Debian package of that name."""

import shutil
from pathlib import Path

from vv import apt
from vv.errors import Unavailable
from vv.output import Say

_PACKAGE = apt.Package(
    "wrk",
    missing="The load generator wrk was not found on this machine.",
    what_to_do="Install wrk (on Debian and Ubuntu: apt-get install wrk); the benchmark drives its load with it.",
)


def find_or_install(say: Say) -> Path:
    """The program, installed first where there is none and we may. Blocks. Raises Unavailable."""
    if shutil.which("wrk") is None:
        apt.install(_PACKAGE, say)
    found = shutil.which("wrk")
    if found is None:
        raise Unavailable(f"wrk was installed, but is not in PATH. {_PACKAGE.what_to_do}")
    return Path(found).absolute()
