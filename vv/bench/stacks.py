"""The servers under test: stacks side by side, each in a data folder of its own, and the floor."""

import asyncio
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import aiohttp

from vv import folder, process, stack_file
from vv.bench.plan import FLOOR, STACKS
from vv.databases import Databases, embedded
from vv.errors import Unavailable
from vv.mariadb import Mariadb
from vv.output import Say
from vv.process import Child
from vv.stack import Stack

PORT_STEP = 10
_FLOOR_PORT = 8084
# What stands for the floor's base URL in the settings of the plan.
_FLOOR_URL = "{floor}"
_FLOOR_START_TIMEOUT_S = 20.0
# Of the environment these would make another stack of it than the one in the data folder.
_NOT_PASSED_ON = ("_DATABASE_URL", "_CRASH_POINT")
_SERVICE_PREFIXES = ("ORDER_", "INVENTORY_", "PAYMENT_")


class Stacks:
    """Several stacks and the floor as one thing, to be had up by :func:`vv.foreground.while_up`.

    :param data_dir: the folder in which each stack has one of its own
    :param port_offset: that of the first stack; each further one has ten more
    :param names: which of ``plan.STACKS`` and the floor
    """

    def __init__(
        self, data_dir: Path, port_offset: int, names: Iterable[str], environment: Mapping[str, str], say: Say
    ) -> None:
        self._floor_port = _FLOOR_PORT + port_offset
        names = {*names, *(FLOOR for name in names if _FLOOR_URL in STACKS.get(name, {}).values())}
        self.say = say
        self._is_up = False
        self.folder = data_dir.absolute()
        self.event_loop: str | None = None
        self.stacks = {
            name: Stack(
                self.folder / name,
                port_offset + n * PORT_STEP,
                environment={**_inherited(environment), **self._settings_of(name)},
                say=partial(self._say_of, name),
            )
            for n, name in enumerate(STACKS)
            if name in names
        }
        command = [sys.executable, "-m", "vv.bench.floor", str(self._floor_port)]
        self._floor = (
            Child(FLOOR, command, environment, self.folder, self.folder / "floor.log") if FLOOR in names else None
        )

    async def start(self) -> None:
        """Bring up one after the other. Raises what :meth:`vv.stack.Stack.start` raises."""
        for stack in self.stacks.values():
            await stack.start()
        if self._floor is not None:
            await self._floor.start()
            await self._floor_is_ready(self._floor)
        self._is_up = True

    async def run(self) -> None:
        """Start again whatever dies, until cancelled. The run that it dies in adds up to nothing."""
        async with asyncio.TaskGroup() as keepers:
            for stack in self.stacks.values():
                keepers.create_task(stack.run())
            # What has no stack waits, too.
            keepers.create_task(asyncio.Event().wait())

    async def stop(self) -> None:
        """Stop what was started, all at the same time."""
        if self._floor is not None:
            self._floor.send(signal.SIGTERM)
        await asyncio.gather(*(stack.stop() for stack in self.stacks.values()))
        if self._floor is not None and self._floor.pid is not None:
            await self._floor.wait()

    def hurry(self) -> None:
        for stack in self.stacks.values():
            stack.hurry()

    @property
    def floor_url(self) -> str:
        return f"http://127.0.0.1:{self._floor_port}/orders"

    @property
    def floor_pid(self) -> int:
        assert self._floor is not None
        assert self._floor.pid is not None
        return self._floor.pid

    def pids(self, name: str) -> dict[str, int]:
        """The processes of a stack, by what they are. Raises Unavailable."""
        found = stack_file.read(self.stacks[name].data_dir)
        if found is None:
            raise Unavailable(f"The stack {name} is not up any more; its logs are in {self.stacks[name].logs_dir}.")
        return {str(process): int(pid) for process, pid in found["pids"].items()}

    def databases(self, name: str) -> Databases:
        """The databases of a stack that is up."""
        return embedded(Mariadb(self.stacks[name].data_dir))

    def _settings_of(self, name: str) -> dict[str, str]:
        url = f"http://127.0.0.1:{self._floor_port}"
        return {variable: url if value == _FLOOR_URL else value for variable, value in STACKS[name].items()}

    def _say_of(self, name: str, line: str) -> None:
        # That a database is created and migrated is a matter of course; that something dies is not.
        if self._is_up:
            self.say(f"{name}: {line}")

    async def _floor_is_ready(self, floor: Child) -> None:
        deadline = time.monotonic() + _FLOOR_START_TIMEOUT_S
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{self._floor_port}/readyz") as reply:
                        self.event_loop = str((await reply.json())["event_loop"])
                        return
                except aiohttp.ClientError:
                    if floor.has_ended or time.monotonic() > deadline:
                        raise Unavailable(f"The floor did not start. Its log:\n{floor.last_lines()}") from None
                await asyncio.sleep(0.03)


def wipe(data_dir: Path, say: Say) -> None:
    """Empty the data folder of a stack. Blocks. Raises Unavailable when it is in use or not a data folder."""
    if not data_dir.exists():
        return
    entries = [entry for entry in data_dir.iterdir() if entry.name != "vv.lock"]
    if entries and not (data_dir / "vv.lock").exists():
        raise Unavailable(f"{data_dir} is not the data folder of a stack; name another one with --data-dir.")
    with folder.locked(data_dir):
        process.wait_for_leftovers(data_dir, 30, say)
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)


def settings_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What of the environment makes the services differ from their defaults."""
    return {name: value for name, value in _inherited(environment).items() if name.startswith(_SERVICE_PREFIXES)}


def _inherited(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.endswith(_NOT_PASSED_ON)}
