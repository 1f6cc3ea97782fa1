"""The gateway's ledger: a file to which entries are only ever added, one JSON object a line.

Nobody is told of an entry before it is on the disk; entries that come at once share a write and an fsync.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, auto
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.errors import ServiceUnavailable
from payment_service.gateway_wire import ChargeStatus
from vv.errors import Unavailable


class Kind(StrEnum):
    CHARGE = auto()
    REFUND = auto()
    CANCEL = auto()


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the ledger.

    ``n`` counts from 1, ``amount`` is in minor units, ``charge_key`` is that of the charge which is made, refunded or
    cancelled. The last three are of charges only.
    """

    n: int
    at: datetime
    kind: Kind
    key: str
    charge_key: str
    amount: int
    currency: str
    status: ChargeStatus
    payment_method: str | None = None
    reference: str | None = None
    reason: str | None = None

    @property
    def id(self) -> str:
        return f"{self.kind}_{self.n}"


_ENTRY = TypeAdapter(Entry)


class Ledger:
    """Made by :func:`opened`. It belongs to one event loop."""

    def __init__(self, file: int, entries: list[Entry]) -> None:
        self._file = file
        self._entries = entries
        self._on_disk = len(entries)
        self._lines: list[bytes] = []
        self._writing: asyncio.Task[None] | None = None
        # One thread, so that the event loop goes on while the disk is at work.
        self._thread = ThreadPoolExecutor(1, "ledger")
        self.failed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def page(self, after: int, limit: int) -> list[Entry]:
        """Up to ``limit`` entries that are on the disk, from number ``after`` + 1 on."""
        return self._entries[after : min(after + limit, self._on_disk)]

    @property
    def on_disk(self) -> int:
        """How many entries are on the disk."""
        return self._on_disk

    def add(self, entry: Entry) -> None:
        """Put the next entry at the end. Nobody may be told of it before :meth:`written`."""
        assert entry.n == len(self._entries) + 1
        self._entries.append(entry)
        self._lines.append(_ENTRY.dump_json(entry, exclude_none=True) + b"\n")
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def written(self, entry: Entry) -> None:
        """Wait until the entry, and all before it, are on the disk. Raises ServiceUnavailable if nobody knows."""
        try:
            while entry.n > self._on_disk:
                assert self._writing is not None
                await asyncio.shield(self._writing)
        except OSError as error:
            raise ServiceUnavailable(f"The ledger cannot be written: {error.strerror}.") from error

    def close(self) -> None:
        """Wait for what is being written."""
        self._thread.shutdown()

    async def _write(self) -> None:
        lines, self._lines = self._lines, []
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, _append, self._file, b"".join(lines))
        except OSError:
            # After a failed fsync nobody knows what is on the disk. This task stays, and with it the error for all.
            self.failed.set()
            raise
        self._on_disk += len(lines)
        self._writing = asyncio.create_task(self._write()) if self._lines else None


@contextmanager
def opened(path: Path) -> Iterator[Ledger]:
    """The ledger in this file, created if there is none. A last line that broke off was never answered: it is cut off.

    Raises Unavailable when it cannot be opened, is in use, or holds something else.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"--ledger {path} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        entries = _read(path)
        os.ftruncate(file, _end_of_last_line(path))
        os.fsync(file)
        _sync_folder(path.parent)
        with contextlib.closing(Ledger(file, entries)) as ledger:
            yield ledger
    except BlockingIOError:
        raise Unavailable(f"--ledger {path} is in use by another gateway; give this one a file of its own.") from None
    finally:
        os.close(file)


def _read(path: Path) -> list[Entry]:
    entries: list[Entry] = []
    with path.open("rb") as lines:
        for n, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            entry = _parse(line)
            if entry is None or entry.n != n:
                raise Unavailable(
                    f"--ledger {path}: line {n} is not entry {n} of a ledger; give the file of a gateway."
                )
            entries.append(entry)
    return entries


def _parse(line: bytes) -> Entry | None:
    try:
        return _ENTRY.validate_json(line)
    except ValidationError:
        return None


def _end_of_last_line(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1


def _append(file: int, data: bytes) -> None:
    """Write and fsync. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def _sync_folder(path: Path) -> None:
    """So that the name of a new file outlives a power failure, too."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
