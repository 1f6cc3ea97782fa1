"""The metrics of a service that runs in several processes: whichever of them is asked answers for all.

Each worker keeps its numbers in files that the others read. The files go by the number of the worker, so that the one
that takes the place of a dead one counts on from there.
"""

import os
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import Gauge, ProcessCollector, values
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

# The name is prometheus_client's; it names a folder.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_PID = "vv_worker_pid"
_number: int | None = None


def share_as(number: int) -> None:
    """Have this process measure as worker ``number``. To be called before the first metric is made."""
    global _number
    _number = number
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]
    pid = Gauge(_PID, "Process id of each worker", ["worker"], multiprocess_mode="livesum", registry=None)
    pid.labels(str(number)).set(os.getpid())


def is_first() -> bool:
    """Whether this process is the one worker, of however many, that does what is to be done once."""
    return _number in (None, 0)


def forget(number: int, folder: str) -> None:
    """Drop what a dead worker had in its hands; what it has counted stays."""
    mark_process_dead(number, folder)  # type: ignore[no-untyped-call]


def exposition_of_all() -> bytes:
    """The sums over all workers, and ``process_*`` of each with its number as the label ``worker``."""
    return generate_latest(_AllWorkers())


class _AllWorkers(Collector):
    def collect(self) -> Iterator[Metric]:
        shared = list(MultiProcessCollector(None).collect())  # type: ignore[no-untyped-call]
        yield from shared
        pids = [sample for family in shared if family.name == _PID for sample in family.samples]
        yield from _processes({sample.labels["worker"]: int(sample.value) for sample in pids})


def _processes(pids: Mapping[str, int]) -> Iterator[Metric]:
    """Read anew from the system each time: a worker that has nothing to do would report nothing."""
    families: dict[str, Metric] = {}
    for worker, pid in sorted(pids.items()):
        for family in _process(pid):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            merged.samples += [sample._replace(labels={"worker": worker}) for sample in family.samples]
    yield from families.values()


def _process(pid: int) -> Iterable[Metric]:
    return ProcessCollector(pid=lambda: pid, registry=None).collect()
