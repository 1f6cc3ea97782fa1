"""What the backend promises, and the record of how often it was checked and broken."""

from collections import Counter, defaultdict
from collections.abc import Callable
from enum import StrEnum

_EXAMPLES_MAX = 3


class Promise(StrEnum):
    """A promise that has to be kept under load, too."""

    NO_5XX = "no_5xx"
    AS_DOCUMENTED = "as_documented"
    NO_OVERSELL = "no_oversell"
    REPLAYS_EQUAL = "replays_equal"
    CHARGED_ONCE = "charged_once"
    ORDERS_END = "orders_end"


_MEANINGS = {
    Promise.NO_5XX: "no reply is a 5xx",
    Promise.AS_DOCUMENTED: "every request gets a reply, and one that is in its contract",
    Promise.NO_OVERSELL: "units sold and units left are the units put in",
    Promise.REPLAYS_EQUAL: "the same Idempotency-Key gets the same status and body again",
    Promise.CHARGED_ONCE: "completed orders have one captured payment of their amount, cancelled ones are refunded",
    Promise.ORDERS_END: "what had no definite answer ends as completed, failed or cancelled",
}


class PromiseBroken(Exception):
    """What locust lists among the failures."""


class Promises:
    """Counts checks and violations. ``report`` is told of each violation, in a sentence without ids.

    ``overloads`` counts the replies 503 overloaded, whether or not they are allowed.
    """

    def __init__(self, report: Callable[[Promise, PromiseBroken], None]) -> None:
        self.overloads = 0
        self._report = report
        self._checks: Counter[Promise] = Counter()
        self._broken: Counter[Promise] = Counter()
        self._examples: defaultdict[Promise, list[str]] = defaultdict(list)

    @property
    def are_kept(self) -> bool:
        return not self._broken

    def check(self, promise: Promise, holds: bool, sentence: str = "", where: str = "") -> None:
        """Count a check. ``sentence`` says what is wrong if it does not hold, ``where`` names ids and numbers."""
        self._checks[promise] += 1
        if holds:
            return
        self._broken[promise] += 1
        if len(self._examples[promise]) < _EXAMPLES_MAX:
            self._examples[promise].append(f"{sentence} {where}".strip())
        self._report(promise, PromiseBroken(sentence))

    def summary(self) -> list[str]:
        """A table of all promises, also of those that were never checked, with the first violations."""
        lines = [f"{'Promise':<16}{'checks':>10}{'broken':>10}"]
        for promise, meaning in _MEANINGS.items():
            checks, broken = self._checks[promise], self._broken[promise]
            verdict = "BROKEN" if broken else "kept" if checks else "never checked"
            lines.append(f"{promise:<16}{checks:>10}{broken:>10}  {verdict:<15}{meaning}")
            lines += [f"    {example}" for example in self._examples[promise]]
        return lines
