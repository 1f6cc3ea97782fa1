"""The points at which tests kill the process."""

import os
import signal
from collections.abc import Callable

CrashPoints = Callable[[str], None]


def crash_points(armed: str | None) -> CrashPoints:
    """A function that kills the process, as ``kill -9`` does, when it is called with the name ``armed``.

    The fault tests arm it through the environment; unarmed it does nothing.
    """

    def reached(name: str) -> None:
        if name == armed:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached
