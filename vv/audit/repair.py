"""Carrying out what was proposed for a violation, if everything still is as it was seen."""

import ssl

from common.clients import AsyncPaymentClient
from common.database import Database
from common.errors import DatabaseUnavailable, ServiceError
from common.transaction import Transaction
from inventory_service.stock import Stock
from vv.audit.books import Books
from vv.audit.fixes import propose
from vv.audit.proposals import RETURN_STOCK, Call, Proposal, Sql
from vv.audit.run import SECTIONS, Section, Violation, again

MENDED = "Done."
_HOLDS_NOW = "It holds by now; nothing was changed."
_OTHERWISE_NOW = "The rows are no longer as they were seen; nothing was changed."
_TRY_AGAIN = "Nothing was changed; try again."
_DONE_BEFORE = "That was done before and was not enough; nothing was changed. Look at the rows."


class _NotAsSeen(Exception):
    """A statement did not hit its row; the transaction is rolled back."""


class _Refused(Exception):
    """Why a call was not carried out, in a sentence."""


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
    now = await _look(books, violation)
    if now is None:
        return _HOLDS_NOW
    if proposal.change is None or propose(now) != proposal:
        return _OTHERWISE_NOW
    if isinstance(proposal.change, Sql):
        return await _run(books.databases[proposal.change.service], proposal.change)
    try:
        if proposal.change.endpoint == RETURN_STOCK:
            outcome = await _return_stock(books, proposal.change)
        else:
            outcome = await _return_money(proposal.change, payment_url, tls)
    except _Refused as refusal:
        return str(refusal)
    # A call that was made before is answered as it was then, and changes nothing.
    return outcome if await _look(books, violation) is None else _DONE_BEFORE


async def _look(books: Books, violation: Violation) -> Violation | None:
    """The violation as it is now, None if the invariant holds."""
    suspects = {(violation.invariant, violation.subject)}
    return next(iter([one async for one in again(books, _section_of(violation), suspects)]), None)


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


async def _return_stock(books: Books, call: Call) -> str:
    _, request_id = call.body
    # The service's own code; it need not run, as all it decides on is in its database.
    [outcome] = await Stock(books.databases["inventory"]).rollback([request_id])
    if isinstance(outcome, ServiceError):
        raise _Refused(f"{outcome.detail} {_TRY_AGAIN}")
    return MENDED


async def _return_money(call: Call, payment_url: str, tls: ssl.SSLContext | None) -> str:
    _, order_id = call.body
    try:
        # Only the service knows its gateway.
        async with AsyncPaymentClient(payment_url, tls=tls) as payments:
            payment = await payments.cancel(order_id)
    except DatabaseUnavailable:
        raise
    except ServiceError as error:
        raise _Refused(
            f"{call.endpoint} at {payment_url} failed: {error.detail} See that the payment service runs (PAYMENT_URL)."
        ) from error
    return f"{MENDED} The payment is {payment.status}."


def _section_of(violation: Violation) -> Section:
    return next(
        section
        for section in SECTIONS
        for invariant in (*section.invariants, *section.quiesced)
        if invariant.__name__ == violation.invariant
    )
