"""Which instance of a service gets the next request. Pure: clock and chance are injected."""

import random
import time
from collections.abc import Callable, Collection, Iterable
from enum import Enum, auto
from typing import NamedTuple

# Seconds that an instance is left alone after a failure; doubled by each further one. One that could not even be
# connected to is most likely gone. One that answers badly may be as good as the others, which then have its load, too.
_REFUSED_S = (0.5, 10.0)
_FAILED_S = (0.1, 5.0)
# RFC 2782: weight 0 has "a very small chance of being selected" among others that have more.
_WEIGHT_MIN = 0.01


class Endpoint(NamedTuple):
    """Where an instance is: the host and port of its record, and the addresses of that host."""

    host: str
    port: int
    addresses: tuple[str, ...] = ()


class Record(NamedTuple):
    """An SRV record: of those with the lowest ``priority`` that can be used, each gets a share as its ``weight``."""

    endpoint: Endpoint
    priority: int = 0
    weight: int = 0


class Outcome(Enum):
    """What a request says about the instance that it was sent to."""

    ANSWERED = auto()
    FAILED = auto()
    """A 5xx, a timeout, or a connection that was lost."""
    REFUSED = auto()
    """There was no connection."""
    UNKNOWN = auto()
    """Nothing: the caller went away, or was in too much of a hurry."""


class _Instance:
    """An endpoint, and what became of the requests to it."""

    __slots__ = (
        "endpoint",
        "failures",
        "in_flight",
        "is_refused",
        "on_trial",
        "out_until",
        "priority",
        "ticket",
        "weight",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.priority = 0
        self.weight = _WEIGHT_MIN
        self.in_flight = 0
        # In a row, those that were on their way together counted once.
        self.failures = 0
        self.is_refused = False
        self.out_until = 0.0
        self.on_trial = False
        # Changes with each change of health: what was sent before says nothing about it as it is now.
        self.ticket = 0

    @property
    def load(self) -> float:
        return self.in_flight / self.weight


class Lease(NamedTuple):
    """A request's right to an instance; to be given back once, with the outcome."""

    instance: _Instance
    ticket: int

    @property
    def endpoint(self) -> Endpoint:
        return self.instance.endpoint


class Instances:
    """The instances of a service, as DNS named them last, and what this client has met with at each.

    An instance that fails is left alone for a while, which doubles with each further failure. Then one request at a
    time tries it, until one is answered. If all fail, those that did answer, though badly, are used all the same; if
    none could be connected to, the one whose time is over next.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, chance: random.Random | None = None) -> None:
        self._clock = clock
        self._chance = chance or random.Random()
        self._instances: dict[Endpoint, _Instance] = {}

    @property
    def endpoints(self) -> list[Endpoint]:
        return list(self._instances)

    def any_healthy(self) -> bool:
        """Whether there is an instance that has not failed since it was last heard of."""
        return any(not instance.failures for instance in self._instances.values())

    def update(self, records: Iterable[Record]) -> None:
        """Use these from now on. What is known about an instance that stays is kept."""
        before, self._instances = self._instances, {}
        for record in sorted(records, key=lambda record: record.priority):
            if record.endpoint in self._instances:
                continue
            instance = before.get(record.endpoint) or _Instance(record.endpoint)
            instance.priority = record.priority
            instance.weight = max(float(record.weight), _WEIGHT_MIN)
            self._instances[record.endpoint] = instance

    def pick(self, tried: Collection[Endpoint] = ()) -> Lease | None:
        """The instance for a request that could not be sent to those that were ``tried``; None if there is none.

        Who has tried already gets none that cannot be connected to either.
        """
        now = self._clock()
        left = [instance for endpoint, instance in self._instances.items() if endpoint not in tried]
        usable = [instance for instance in left if _is_usable(instance, now)]
        usable = usable or [instance for instance in left if not instance.is_refused]
        if usable:
            first = min(instance.priority for instance in usable)
            chosen = self._less_loaded([instance for instance in usable if instance.priority == first])
        elif left and not tried:
            chosen = min(left, key=lambda instance: instance.out_until)
        else:
            return None
        chosen.in_flight += 1
        chosen.on_trial = chosen.failures > 0
        return Lease(chosen, chosen.ticket)

    def give_back(self, lease: Lease, outcome: Outcome) -> bool:
        """The request is over. Gives whether the instance is left alone for a while now, and was not before."""
        instance = lease.instance
        instance.in_flight -= 1
        if lease.ticket != instance.ticket:
            return False
        is_news = not instance.failures
        if outcome in (Outcome.FAILED, Outcome.REFUSED):
            self._drop(instance, is_refused=outcome is Outcome.REFUSED)
        elif outcome is Outcome.ANSWERED and instance.failures:
            instance.failures = 0
            instance.is_refused = False
            instance.ticket += 1
        instance.on_trial = False
        return is_news and instance.failures > 0

    def _drop(self, instance: _Instance, *, is_refused: bool) -> None:
        base_s, max_s = _REFUSED_S if is_refused else _FAILED_S
        # 2.0**1024 raises OverflowError; the cap decides long before.
        pause_s = min(max_s, base_s * 2.0 ** min(instance.failures, 1000))
        instance.failures += 1
        instance.is_refused = is_refused
        # The clients of an instance that was down must not all come back at the same moment.
        instance.out_until = self._clock() + pause_s * self._chance.uniform(0.5, 1.0)
        instance.ticket += 1

    def _less_loaded(self, candidates: list[_Instance]) -> _Instance:
        """The power of two choices (Mitzenmacher): of two that are drawn by weight, the one with less to do for its
        weight, and the first if that is equal, so that also a client with one request at a time respects weights."""
        first = self._draw(candidates)
        others = [instance for instance in candidates if instance is not first]
        if not others:
            return first
        second = self._draw(others)
        return second if second.load < first.load else first

    def _draw(self, candidates: list[_Instance]) -> _Instance:
        return self._chance.choices(candidates, [instance.weight for instance in candidates])[0]


def _is_usable(instance: _Instance, now: float) -> bool:
    return not instance.failures or (now >= instance.out_until and not instance.on_trial)
