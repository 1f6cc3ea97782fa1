"""What is not finished yet, for the metrics: how much, in which state, and for how long it has stood still."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple, NoReturn

from prometheus_client import CollectorRegistry, Gauge

from common.errors import ServiceError
from common.telemetry import log

_COUNTED_EVERY_S = 5.0


class BacklogCount(NamedTuple):
    """How many items are in a state, and the seconds since the last step of the one that took none for longest."""

    items: int
    age_s: float


class Backlog:
    """The gauges ``vv_NAME_unfinished`` and ``vv_NAME_oldest_unfinished_age_seconds``."""

    def __init__(self, name: str, unfinished: Collection[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._unfinished = unfinished
        # Every worker counts all of them.
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livemostrecent")
        self._count = gauge(f"vv_{name}_unfinished", f"The {name} that are not final yet, by status", ["status"])
        self._age = gauge(
            f"vv_{name}_oldest_unfinished_age_seconds",
            f"Time since the last step of that of the unfinished {name} which took none for longest; 0 without any",
        )

    async def watch(self, count: Callable[[], Awaitable[Mapping[str, BacklogCount]]]) -> NoReturn:
        """Count every few seconds, for ever. What cannot be counted stays as it was."""
        while True:
            try:
                self._show(await count())
            except ServiceError as error:
                log.warning("backlog_not_counted", of=self._name, code=error.code)
            except Exception:
                log.exception("backlog_not_counted", of=self._name)
            await asyncio.sleep(_COUNTED_EVERY_S)

    def _show(self, found: Mapping[str, BacklogCount]) -> None:
        for status in self._unfinished:
            self._count.labels(status).set(found[status].items if status in found else 0)
        self._age.set(max((standing.age_s for standing in found.values()), default=0.0))
