"""Carrying out a proposed fix, provided that the rows are still as they were when it was proposed."""

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

DONE = "Done."
_HOLDS_NOW = "It holds by now; nothing was changed."
_OTHERWISE_NOW = "The rows are no longer as they were seen; nothing was changed."
_TRY_AGAIN = "Nothing was changed; try again."
_HAD_BEEN_DONE = "That was done before and was not enough; nothing was changed. Look at the rows."


class _NotAsSeen(Exception):
    """A statement did not match exactly one row; the transaction is rolled back."""


class _Refused(Exception):
    """Why a call was not carried out, in a sentence."""


async def repair(
    books: Books,
    violation: Violation,
    proposal: Proposal,
    payment_url: str,
    tls: ssl.SSLContext | None = None,
) -> str:
    """Read the violation again, and make the proposed change if the same one would be proposed now.

    Returns the outcome as a sentence, which begins with ``DONE`` only if something was done.
    Raises DatabaseUnavailable, Unavailable.
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
    # A repeated call replays its first answer and changes nothing.
    return outcome if await _look(books, violation) is None else _HAD_BEEN_DONE


async def _look(books: Books, violation: Violation) -> Violation | None:
    """The violation as it is now, None if the invariant holds."""
    suspects = {(violation.invariant, violation.subject)}
    found = [one async for one in again(books, _section_of(violation), suspects)]
    return found[0] if found else None


async def _run(database: Database, change: Sql) -> str:
    async def run(tx: Transaction) -> None:
        for sql, args in change.statements:
            if await tx.execute(sql, args) != 1:
                raise _NotAsSeen

    try:
        await database.transaction(run)
    except _NotAsSeen:
        return _OTHERWISE_NOW
    return DONE


async def _return_stock(books: Books, call: Call) -> str:
    _, request_id = call.body
    # The service's own code, run here: it needs nothing but the database, so the service need not be running.
    [outcome] = await Stock(books.databases["inventory"]).rollback([request_id])
    if isinstance(outcome, ServiceError):
        raise _Refused(f"{outcome.detail} {_TRY_AGAIN}")
    return DONE


async def _return_money(call: Call, payment_url: str, tls: ssl.SSLContext | None) -> str:
    _, order_id = call.body
    try:
        # By HTTP: only the running service is connected to the gateway.
        async with AsyncPaymentClient(payment_url, tls=tls) as payments:
            payment = await payments.cancel(order_id)
    except DatabaseUnavailable:
        raise
    except ServiceError as error:
        raise _Refused(
            f"{call.endpoint} at {payment_url} failed: {error.detail} See that the payment service runs (PAYMENT_URL)."
        ) from error
    return f"{DONE} The payment is {payment.status}."


def _section_of(violation: Violation) -> Section:
    return next(
        section
        for section in SECTIONS
        for invariant in (*section.invariants, *section.quiesced)
        if invariant.__name__ == violation.invariant
    )
