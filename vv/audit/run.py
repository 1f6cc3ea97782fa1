"""One audit: every invariant about stock and money, checked in the three databases and at the payment gateway.

An audit only reads, and may run while orders are being placed: what looks wrong is read twice more, and reported only
if it is wrong each time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from vv.audit import invariants
from vv.audit.books import Books
from vv.audit.invariants import Invariant
from vv.audit.pages import Page

_LOOK_AGAIN_AFTER_S = 1.0
_LOOKS_AGAIN = 2
# Violations of one invariant that are kept with their rows; further ones are only counted.
KEPT_MAX = 1_000

Progress = Callable[[int], None]
Suspects = set[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """Facts of one kind, and the invariants that each must satisfy; ``quiesced`` only once no work is in progress.

    ``read`` yields all of them, or only those with the given subjects. ``counted`` is the field of Report that counts
    their rows.
    """

    read: Callable[[Books, Sequence[str] | None], AsyncIterator[Page]]
    invariants: tuple[Invariant, ...]
    quiesced: tuple[Invariant, ...] = ()
    counted: str | None = None


# Orders before stock and money: an order takes both before it records that it has them.
SECTIONS = (
    Section(
        lambda books, only: books.orders(only),
        invariants.ORDER_INVARIANTS,
        (invariants.orders_are_final,),
        counted="orders",
    ),
    Section(lambda books, only: books.requests(only), invariants.REQUEST_INVARIANTS),
    Section(
        lambda books, only: books.payments(only),
        invariants.PAYMENT_INVARIANTS,
        (invariants.payments_are_settled,),
        counted="payments",
    ),
    Section(lambda books, only: books.gateway_entries(only), invariants.GATEWAY_INVARIANTS),
    Section(lambda books, only: books.stock(only), invariants.STOCK_INVARIANTS, counted="skus"),
    Section(lambda books, only: books.orphans(only), invariants.ORPHAN_INVARIANTS),
)
NAMES = [invariant.__name__ for section in SECTIONS for invariant in section.invariants]
QUIESCED_NAMES = [invariant.__name__ for section in SECTIONS for invariant in section.quiesced]


@dataclass(frozen=True)
class Violation:
    """An invariant that does not hold: its name, the SKU, order or row, what is wrong, and the facts as evidence."""

    invariant: str
    subject: str
    problem: str
    facts: Any = field(repr=False)


@dataclass
class Report:
    """What was read, how often each invariant is violated, and the first violations of each.

    ``gateway_url`` is the gateway whose ledger was compared; None if only the sandbox's table was.
    """

    invariants: list[str]
    gateway_url: str | None = None
    skus: int = 0
    orders: int = 0
    payments: int = 0
    found: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.found

    def add(self, violation: Violation) -> None:
        name = violation.invariant
        self.found[name] = self.found.get(name, 0) + 1
        if self.found[name] <= KEPT_MAX:
            self.violations.append(violation)


async def audit(books: Books, progress: Progress = lambda _: None, *, quiesced: bool = False) -> Report:
    """Check every invariant; ``progress`` is called with the number of rows read since its last call.

    ``quiesced`` also requires that no order and no payment is unfinished. Raises DatabaseUnavailable, Unavailable.
    """
    report = Report(NAMES + (QUIESCED_NAMES if quiesced else []), books.gateway_url)
    wanted = set(report.invariants)
    suspects = [await _look_at_all(books, section, wanted, report, progress) for section in SECTIONS]
    for _ in range(_LOOKS_AGAIN - 1):
        await _wait(suspects)
        looks = zip(SECTIONS, suspects, strict=True)
        suspects = [{(one.invariant, one.subject) async for one in again(books, *look)} for look in looks]
    await _wait(suspects)
    for section, suspected in zip(SECTIONS, suspects, strict=True):
        async for violation in again(books, section, suspected):
            report.add(violation)
    return report


async def again(books: Books, section: Section, suspects: Suspects) -> AsyncIterator[Violation]:
    """Read the suspects, pairs of an invariant and a subject, again; yields those that are violations now."""
    if not suspects:
        return
    names = {name for name, _ in suspects}
    async for page in section.read(books, sorted({subject for _, subject in suspects})):
        for violation in _violations(page, section, names):
            if (violation.invariant, violation.subject) in suspects:
                yield violation


async def _look_at_all(
    books: Books, section: Section, wanted: Collection[str], report: Report, progress: Progress
) -> Suspects:
    # Names only: the rows of a million violations would not fit into memory.
    suspects: Suspects = set()
    async for page in section.read(books, None):
        suspects |= {(one.invariant, one.subject) for one in _violations(page, section, wanted)}
        if section.counted is not None:
            setattr(report, section.counted, getattr(report, section.counted) + page.rows)
        progress(page.rows)
    return suspects


async def _wait(suspects: Sequence[Suspects]) -> None:
    if any(suspects):
        await asyncio.sleep(_LOOK_AGAIN_AFTER_S)


def _violations(page: Page, section: Section, wanted: Collection[str]) -> list[Violation]:
    return [
        Violation(invariant.__name__, facts.subject, problem, facts)
        for facts in page.facts
        for invariant in (*section.invariants, *section.quiesced)
        if invariant.__name__ in wanted and (problem := invariant(facts)) is not None
    ]
