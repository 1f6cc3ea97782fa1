"""A plugin for runs in several processes (``pytest -n``): tests that measure something have the machine to themselves.

A test holds the lock of the run together with others, or alone if it is marked so. Who waits for it holds the gate, so
that nobody overtakes him.
"""

import fcntl
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.database_server import given_url
from vv import mariadb_program

_FOLDER = "turns"


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Wait for one's turn, and hold it for a block. All processes of a run name the same folder."""
    with (folder / "run.lock").open("a") as run, (folder / "gate.lock").open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(run, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In the process that starts the others: tell each where the locks are."""
    if not hasattr(node.config, _FOLDER):
        if given_url() is None:
            # Once, not by all of them at the same time.
            mariadb_program.find_or_install(print)
        folder = tempfile.TemporaryDirectory()
        node.config.add_cleanup(folder.cleanup)
        setattr(node.config, _FOLDER, folder.name)
    node.workerinput[_FOLDER] = getattr(node.config, _FOLDER)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around everything else, so that waiting counts for no timeout."""
    folder = getattr(item.config, "workerinput", {}).get(_FOLDER)
    if folder is None:
        return (yield)
    with turn(Path(folder), alone=item.get_closest_marker("alone") is not None):
        return (yield)
