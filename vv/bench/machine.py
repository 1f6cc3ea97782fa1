"""The machine and the software that a benchmark ran on."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from vv import mariadb_program


def describe(event_loop: str | None) -> dict[str, str]:
    """What it is, by what it is called. ``event_loop`` is the class of the servers' loops, if known."""
    program = mariadb_program.find()
    found = {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": sys.version.split()[0],
        "event loop": event_loop,
        "aiohttp": version("aiohttp"),
        "aiomysql": version("aiomysql"),
        "database": _version_of([str(program), "--no-defaults", "--version"]) if program else None,
        "load generator": _version_of(["wrk", "--version"]),
    }
    return {name: value for name, value in found.items() if value}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _version_of(command: list[str]) -> str:
    """The first line that a program says about itself, without its path and what follows the version."""
    # wrk shows its usage, too, and fails.
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    first = (said.stdout or said.stderr).partition("\n")[0]
    return first.split("Copyright")[0].replace(f"{command[0]} ", "").strip()
