"""What a process has used so far: CPU time and memory, from ``/proc``."""

import contextlib
import os
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, in user and system mode. Raises OSError when it has ended."""
    # The name of the program, in parentheses, may have blanks in it.
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def forget_peak_memory(pid: int) -> None:
    """Have the peak counted anew from now on; where the kernel cannot, it stays that of the whole life."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory_mb(pid: int) -> float:
    """The most resident memory, in units of 10^6 bytes. Raises OSError when the process has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
