"""The data folder: who may use it, and files in it that are either whole or not there."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vv.errors import Unavailable


class FolderInUse(Unavailable):
    """Another vv works in this data folder."""


def make_private(folder: Path) -> None:
    """Create ``folder`` for this user only. Raises Unavailable."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"The data folder {folder} cannot be created: {error.strerror}.") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have the data folder to ourselves; the kernel gives the lock back however this process ends.

    Raises FolderInUse, at once.
    """
    make_private(folder)
    try:
        # Never deleted: a second process could lock the deleted file while a third one locks its successor.
        descriptor = os.open(folder / "vv.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Unavailable(f"The data folder {folder} cannot be used: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise FolderInUse(
                f"The data folder {folder} is in use by another vv (pid {owner}); stop that one first, or choose "
                "another folder with --data-dir and other ports with --port-offset."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace ``path`` so that every reader sees the old text or the new one, also after a power cut."""
    half_made = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        half_made.unlink()
    descriptor = os.open(half_made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    half_made.replace(path)
