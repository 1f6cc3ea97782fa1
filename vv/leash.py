"""``leash.py PARENT_PID COMMAND…``: become a command that gets SIGTERM when its parent dies, however that dies.

A program of its own instead of a ``preexec_fn``, which may deadlock in a process that has threads. The request
outlives the exec below; it is Linux that keeps it.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        # It died before the request was in force.
        sys.exit(1)
    # Python ignores SIGPIPE, and what is ignored stays so for the command.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
