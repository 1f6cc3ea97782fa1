"""The file under the gateway: what is on the disk before anybody is told, and what a broken file is made of."""

import asyncio
import errno
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.errors import ServiceUnavailable
from payment_service.gateway_wire import ChargeStatus
from vv import gateway_ledger
from vv.errors import Unavailable
from vv.gateway_ledger import Entry, Kind, Ledger, opened

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(n: int) -> Entry:
    return Entry(n, NOW, Kind.CHARGE, f"k{n}", f"k{n}", 100, "USD", ChargeStatus.APPROVED, "tok_ok", "order")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.ledger"


def write(path: Path, count: int) -> None:
    async def write_to(ledger: Ledger) -> None:
        entries = [entry(len(ledger) + 1 + n) for n in range(count)]
        for one in entries:
            ledger.add(one)
        await asyncio.gather(*map(ledger.written, entries))

    with opened(path) as ledger:
        asyncio.run(write_to(ledger))


def test_what_was_written_is_read_again(path: Path) -> None:
    """Also after the file was closed and opened twice."""
    write(path, 2)
    write(path, 1)
    with opened(path) as ledger:
        assert list(ledger) == [entry(1), entry(2), entry(3)]
    assert path.read_text().count("\n") == 3


@pytest.mark.parametrize("torn", ['{"n":3', '{"n":3,"at":"2026-01-01T00:00:00Z"', "\0\0\0", "{}"])
def test_a_torn_last_line_is_cut_off(torn: str, path: Path) -> None:
    """Nobody was told of it, and the next entry takes its place."""
    write(path, 2)
    with path.open("a") as file:
        file.write(torn)
    write(path, 1)
    with opened(path) as ledger:
        assert list(ledger) == [entry(1), entry(2), entry(3)]


@pytest.mark.parametrize("line", ["{}", "order,amount", '{"n":7}', ""])
def test_a_file_that_is_no_ledger_is_left_as_it_is(line: str, path: Path) -> None:
    """Somebody gave the wrong file: it is refused by name and line, and nothing of it is changed."""
    write(path, 1)
    with path.open("a") as file:
        file.write(f"{line}\nmore")
    before = path.read_bytes()
    with pytest.raises(Unavailable, match=r"gateway.ledger: line 2 is not entry 2"), opened(path):
        pass
    assert path.read_bytes() == before


def test_a_gap_in_the_numbers_is_refused(path: Path) -> None:
    """A line that somebody took out is not passed over in silence."""
    write(path, 3)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    with pytest.raises(Unavailable, match="line 2"), opened(path):
        pass


def test_a_ledger_has_one_writer(path: Path) -> None:
    """Two gateways would number their entries alike."""
    with opened(path), pytest.raises(Unavailable, match="in use"), opened(path):
        pass


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(Unavailable, match=r"--ledger .*nowhere.* cannot be opened: No such file"),
        opened(tmp_path / "nowhere" / "ledger"),
    ):
        pass


async def test_entries_that_come_at_once_share_an_fsync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred entries cost two: the first goes alone, the others gather behind it."""
    syncs: list[int] = []
    fsync = os.fsync

    def counted(file: int) -> None:
        syncs.append(file)
        fsync(file)

    monkeypatch.setattr(os, "fsync", counted)
    with opened(path) as ledger:
        syncs.clear()
        entries = [entry(n) for n in range(1, 101)]
        ledger.add(entries[0])
        await asyncio.sleep(0)
        for one in entries[1:]:
            ledger.add(one)
        await asyncio.gather(*map(ledger.written, entries))
        assert len(syncs) == 2
        assert ledger.page(0, 1_000) == entries


async def test_nobody_is_told_before_it_is_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk takes its time the entry is on no page, and whoever waits for it waits."""
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    append = gateway_ledger._append

    def slowly(file: int, data: bytes) -> None:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        append(file, data)

    monkeypatch.setattr(gateway_ledger, "_append", slowly)
    with opened(path) as ledger:
        ledger.add(entry(1))
        waiting = asyncio.create_task(ledger.written(entry(1)))
        await asyncio.wait([waiting], timeout=0.1)
        assert (waiting.done(), ledger.page(0, 10)) == (False, [])
        release.set()
        await waiting
        assert ledger.page(0, 10) == [entry(1)]


async def test_a_disk_that_fails_fails_everybody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits, and whoever comes later, is told so; nothing is given out that may not be there."""

    def full(file: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gateway_ledger, "_append", full)
    with opened(path) as ledger:
        for n in (1, 2):
            ledger.add(entry(n))
            with pytest.raises(ServiceUnavailable, match="No space"):
                await ledger.written(entry(n))
        assert ledger.failed.is_set()
        assert ledger.page(0, 10) == []
