"""What the tests need of Debian packages, installed when it is missing and we may."""

from collections.abc import Callable
from typing import TypeVar

from vv import apt
from vv.apt import Package
from vv.errors import Unavailable
from vv.output import say_aside

T = TypeVar("T")


def found_or_installed(find: Callable[[], T | None], package: Package) -> T:
    """What ``find`` finds, once its package is installed. Blocks. Raises Unavailable."""
    found = find()
    if found is None:
        apt.install(package, say_aside)
        found = find()
    if found is None:
        raise Unavailable(f"{package.missing} {package.what_to_do}")
    return found
