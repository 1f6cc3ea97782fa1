"""Carrying out what was proposed for a violation, if everything still is as it was seen."""

import ssl

from common.clients import AsyncPaymentClient
from common.database import Database
from common.errors import DatabaseUnavailable, ServiceError
from common.transaction import Transaction
from inventory_service.stock import Stock
from vv.audit import SECTIONS, Section, Violation, again
from vv.audit_changes import RETURN_STOCK, Call, Proposal, Sql
from vv.audit_facts import Books
from vv.audit_proposals import propose

MENDED = "Done."
_HOLDS_NOW = "It holds by now; nothing was changed."
_OTHERWISE_NOW = "The rows are no longer as they were seen; nothing was changed."


class _NotAsSeen(Exception):
    """A statement did not hit its row; the transaction is rolled back."""


async def repair(
    books: Books,
    violation: Violation,
    proposal: Proposal,
    payment_url: str,
    tls: ssl.SSLContext | None = None,
) -> str:
    """Look at the violation again, and make the proposed change if it would be proposed now just the same.

    What came of it, in a sentence: ``MENDED``, or why nothing was done. Raises DatabaseUnavailable, Unavailable.
    """
    suspects = {(violation.invariant, violation.subject)}
    now = [one async for one in again(books, _section_of(violation), suspects)]
    if not now:
        return _HOLDS_NOW
    if proposal.change is None or propose(now[0]) != proposal:
        return _OTHERWISE_NOW
    if isinstance(proposal.change, Sql):
        return await _run(books.databases[proposal.change.service], proposal.change)
    return await _call(books, proposal.change, payment_url, tls)


async def _run(database: Database, change: Sql) -> str:
    async def run(tx: Transaction) -> None:
        for sql, args in change.statements:
            if await tx.execute(sql, args) != 1:
                raise _NotAsSeen

    try:
        await database.transaction(run)
    except _NotAsSeen:
        return _OTHERWISE_NOW
    return MENDED


async def _call(books: Books, call: Call, payment_url: str, tls: ssl.SSLContext | None) -> str:
    _, subject = call.body
    if call.endpoint == RETURN_STOCK:
        # The service's own code; it need not run, as all it decides on is in its database.
        await Stock(books.databases["inventory"]).rollback([subject])
        return MENDED
    try:
        # Only the service knows its gateway.
        async with AsyncPaymentClient(payment_url, tls=tls) as payments:
            payment = await payments.cancel(subject)
    except DatabaseUnavailable:
        raise
    except ServiceError as error:
        return (
            f"{call.endpoint} at {payment_url} failed: {error.detail} See that the payment service runs (PAYMENT_URL)."
        )
    return f"{MENDED} The payment is {payment.status}."


def _section_of(violation: Violation) -> Section:
    return next(
        section
        for section in SECTIONS
        for invariant in (*section.invariants, *section.quiesced)
        if invariant.__name__ == violation.invariant
    )
