"""Python reads this before anything else in the image: process 1 gets no signal that it does not ask for.

So a program that is told to end while it still starts would not hear of it, and be killed when its time is up. What
wants to end in its own way, as the services do, takes the signal over.
"""

import os
import signal
import sys
from types import FrameType


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


if os.getpid() == 1:
    signal.signal(signal.SIGTERM, _end)
