"""Of the tests of a run some must not be disturbed by others."""

import threading
import time
from pathlib import Path

from tests.taking_turns import turn


class Taker(threading.Thread):
    """Takes a turn and keeps it until it is told to leave."""

    def __init__(self, folder: Path, *, alone: bool) -> None:
        super().__init__(daemon=True)
        self._folder, self._alone = folder, alone
        self.is_in, self.leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with turn(self._folder, alone=self._alone):
            self.is_in.set()
            self.leave.wait()


def test_who_is_alone_waits_for_the_others_and_is_overtaken_by_nobody(tmp_path: Path) -> None:
    """Others come in together; who wants to be alone comes after those who are in, and before those who come later."""
    first, second = (Taker(tmp_path, alone=False) for _ in range(2))
    assert first.is_in.wait(5)
    assert second.is_in.wait(5)
    alone = Taker(tmp_path, alone=True)
    time.sleep(0.05)
    later = Taker(tmp_path, alone=False)
    first.leave.set()
    assert not alone.is_in.wait(0.05)
    assert not later.is_in.is_set()
    second.leave.set()
    assert alone.is_in.wait(5)
    assert not later.is_in.wait(0.05)
    alone.leave.set()
    assert later.is_in.wait(5)
    later.leave.set()
