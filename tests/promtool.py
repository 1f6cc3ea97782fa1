"""Where promtool comes from: this machine, or the Debian package ``prometheus``, which is unpacked and not installed.

Installing it would start a Prometheus of the system's own.
"""

import shutil
import subprocess
from pathlib import Path

_WITHIN_S = 60


class NotThere(Exception):
    """Neither is it there, nor can it be had."""


def find_or_fetch(folder: Path) -> Path:
    """The program; what is fetched stays in ``folder``, for the next time. Blocks. Raises NotThere."""
    installed = shutil.which("promtool")
    if installed:
        return Path(installed)
    program = folder / "usr/bin/promtool"
    if not program.exists():
        _fetch(folder)
    return program


def _fetch(folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise NotThere("There is no promtool, and this is neither Debian nor Ubuntu.")
    folder.mkdir(parents=True, exist_ok=True)
    _run(folder, "apt-get", "-qq", "download", "prometheus")
    [package] = folder.glob("prometheus_*.deb")
    _run(folder, "dpkg", "-x", package.name, ".")
    package.unlink()


def _run(folder: Path, *command: str) -> None:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_WITHIN_S, check=False)
    if ended.returncode != 0:
        raise NotThere(f"There is no promtool, and {' '.join(command)} failed: {ended.stderr.strip()[-300:]}")
