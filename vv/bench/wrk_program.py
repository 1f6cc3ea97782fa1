"""Where ``wrk`` comes from: this machine, or the Debian package of that name."""

import shutil
from pathlib import Path

from vv import apt
from vv.output import Say

_PACKAGE = apt.Package(
    "wrk",
    missing="The load generator wrk was not found on this machine.",
    what_to_do="Install wrk (on Debian and Ubuntu: apt-get install wrk); the benchmark drives its load with it.",
)


def find_or_install(say: Say) -> Path:
    """The program, installed first where there is none and we may. Blocks. Raises Unavailable."""
    return apt.find_or_install(_find, _PACKAGE, say)


def _find() -> Path | None:
    found = shutil.which("wrk")
    return Path(found).absolute() if found else None
