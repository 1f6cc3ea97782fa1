"""What processes have used so far: CPU time and memory, from ``/proc``."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from vv.errors import Unavailable

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_s_of(pids: Mapping[str, int]) -> dict[str, float]:
    """Seconds of CPU that each process has used, in user and system mode. Raises Unavailable when one has ended."""
    seconds = {}
    for name, pid in pids.items():
        # The name of the program, in parentheses, may have blanks in it.
        fields = _read(name, pid, "stat").rsplit(")", 1)[1].split()
        seconds[name] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    return seconds


def forget_peak_memory(pid: int) -> None:
    """Have the peak counted anew from now on; where the kernel cannot, it stays that of the whole life."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory_mb_of(pids: Mapping[str, int]) -> dict[str, float]:
    """The most resident memory of each process, in 10^6 bytes. Raises Unavailable when one has ended."""
    peaks = {}
    for name, pid in pids.items():
        line = next(line for line in _read(name, pid, "status").splitlines() if line.startswith("VmHWM:"))
        peaks[name] = int(line.split()[1]) * 1024 / 1e6
    return peaks


def _read(name: str, pid: int, file: str) -> str:
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except OSError as error:
        raise Unavailable(f"The {name} process (pid {pid}) is not there any more; see its log (--keep).") from error
