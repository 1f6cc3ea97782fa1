"""What the gauges of unfinished work show."""

import asyncio
import contextlib
from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry

from common import backlog
from common.backlog import Backlog, BacklogCount
from common.errors import DatabaseUnavailable

Look = Mapping[str, BacklogCount] | Exception


async def watch(registry: CollectorRegistry, looks: list[Look], monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at a backlog of orders so often, each time with what is given."""
    monkeypatch.setattr(backlog, "_COUNTED_EVERY_S", 0)
    done = asyncio.Event()

    async def count() -> Mapping[str, BacklogCount]:
        if not looks:
            done.set()
            await asyncio.Event().wait()
        look = looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return look

    task = asyncio.create_task(Backlog("orders", ["created", "failing"], registry).watch(count))
    async with asyncio.timeout(5):
        await done.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def shown(registry: CollectorRegistry) -> tuple[float | None, float | None, float | None]:
    name = "vv_orders_unfinished"
    return (
        registry.get_sample_value(name, {"status": "created"}),
        registry.get_sample_value(name, {"status": "failing"}),
        registry.get_sample_value("vv_orders_oldest_unfinished_age_seconds"),
    )


async def test_the_oldest_of_all_states_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items are counted by state, the age is one number."""
    registry = CollectorRegistry()
    await watch(registry, [{"created": BacklogCount(3, 1.5), "failing": BacklogCount(1, 70.0)}], monkeypatch)
    assert shown(registry) == (3, 1, 70)


async def test_what_is_done_is_no_longer_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state in which nothing is goes back to 0, as does the age."""
    registry = CollectorRegistry()
    await watch(registry, [{"failing": BacklogCount(1, 70.0)}, {}], monkeypatch)
    assert shown(registry) == (0, 0, 0)


@pytest.mark.parametrize("error", [DatabaseUnavailable(), ValueError("bug")])
async def test_a_look_that_fails_changes_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one counts again."""
    registry = CollectorRegistry()
    await watch(registry, [{"created": BacklogCount(2, 9.0)}, error], monkeypatch)
    assert shown(registry) == (2, 0, 9)
    registry = CollectorRegistry()
    await watch(registry, [error, {"created": BacklogCount(2, 9.0)}], monkeypatch)
    assert shown(registry) == (2, 0, 9)
