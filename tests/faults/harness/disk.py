"""The disk of the database: a small file system in memory, so that it can be full."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SIZE = "1g"
_FILLER = "filler"


class SmallDisk:
    """A tmpfs that is mounted on ``folder`` for a block.

    Only root may mount. Without it everything else works, and ``why_not`` says why this disk is never full.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.why_not: str | None = "the disk is not mounted"

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Mount it; it is gone afterwards, with all that is on it. Blocks."""
        self.why_not = self._mount()
        try:
            yield
        finally:
            if self.why_not is None:
                subprocess.run(["umount", "--lazy", self._folder], check=True)

    def fill(self) -> None:
        """Take every byte that is left. Blocks."""
        with (self._folder / _FILLER).open("ab", buffering=0) as filler, contextlib.suppress(OSError):
            left = os.statvfs(self._folder)
            os.posix_fallocate(filler.fileno(), 0, left.f_bavail * left.f_frsize)
            # What was freed between the question and the answer.
            while filler.write(bytes(4096)):
                pass

    def free(self) -> None:
        """Give back what :meth:`fill` has taken."""
        (self._folder / _FILLER).unlink(missing_ok=True)

    def _mount(self) -> str | None:
        self._folder.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0700", "vv-faults", str(self._folder)]
        try:
            mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return "there is no program to mount a small disk with"
        if mounted.returncode == 0:
            return None
        self._folder.rmdir()
        return f"a small disk for the database cannot be mounted ({mounted.stderr.strip()}); only root may"
