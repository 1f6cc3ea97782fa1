"""A promise that was broken."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """Which invariant does not hold, for whom (order, user, SKU or request), and what shows it."""

    invariant: str
    subject: str
    problem: str
    rows: str
