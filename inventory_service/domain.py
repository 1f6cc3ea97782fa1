"""Who gets what: the decisions about stock, without any I/O."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from common.contracts.base import STOCK_MAX
from common.contracts.inventory import (
    LedgerKind,
    OutOfStock,
    SkuNotFound,
    StockChange,
    StockLimitExceeded,
    StockMovement,
    StockRequestRolledBack,
)
from common.errors import IdempotencyMismatch, ServiceError, error_from_problem

# The kinds of ledger rows that tell what became of a request of each kind.
DECIDING_KINDS = {
    LedgerKind.DEDUCT: (LedgerKind.DEDUCT, LedgerKind.ROLLBACK),
    LedgerKind.RESTOCK: (LedgerKind.RESTOCK,),
}


# The member of a recorded refusal that holds the lines of the request; no caller gets to see it.
_ASKED = "asked_lines"


@dataclass(frozen=True)
class ChangeRequest:
    """A wish to change stock: ``lines`` maps each SKU to its delta, in SKU order.

    ``repeatable`` tells whether the caller named the request and may therefore send it again.
    """

    request_id: str
    kind: LedgerKind
    lines: Mapping[str, int]
    order_id: str | None = None
    repeatable: bool = True


@dataclass(frozen=True)
class LedgerRow:
    """A row of the stock ledger as it is written; a row without SKU records that the request took nothing."""

    request_id: str
    kind: LedgerKind
    line: int
    sku: str | None
    delta: int
    quantity: int
    order_id: str | None = None
    refusal: str | None = None


@dataclass
class Allocation:
    """What becomes of a list of requests: an outcome each, in order, and the rows to write."""

    outcomes: list[StockChange | ServiceError] = field(default_factory=list)
    rows: list[LedgerRow] = field(default_factory=list)
    deltas: dict[str, int] = field(default_factory=dict)


def allocate(
    requests: Iterable[ChangeRequest], stock: Mapping[str, int], recorded: Mapping[str, list[LedgerRow]]
) -> Allocation:
    """Give stock out in the order of ``requests``, each of them all-or-nothing.

    ``stock`` is the locked quantity of each known SKU, ``recorded`` the ledger rows of requests that were
    decided before: these are answered from the record and change nothing.
    """
    levels = dict(stock)
    # Also rows on which only a refusal rests are written, with a delta of 0.
    result = Allocation(deltas=dict.fromkeys(stock, 0))
    rows_of = dict(recorded)
    for request in requests:
        rows = rows_of.get(request.request_id)
        if rows is not None:
            result.outcomes.append(replay(request, rows))
            continue
        rows = _decide(request, levels)
        for row in rows:
            if row.sku is not None:
                levels[row.sku] = row.quantity
                result.deltas[row.sku] += row.delta
        if request.repeatable:
            rows_of[request.request_id] = rows
        if rows[0].refusal is None or (request.repeatable and request.kind is LedgerKind.DEDUCT):
            result.rows.extend(rows)
        result.outcomes.append(outcome_of(request.request_id, rows))
    return result


def may_be_recorded(requests: Iterable[ChangeRequest], allocation: Allocation) -> bool:
    """Whether one of these refusals may be that of a request which took effect before, and was not found out.

    Others collide with their record when they are written; the refusal of a restock writes nothing.
    """
    return any(
        request.kind is LedgerKind.RESTOCK and isinstance(outcome, ServiceError)
        for request, outcome in zip(requests, allocation.outcomes, strict=True)
    )


def _decide(request: ChangeRequest, levels: Mapping[str, int]) -> list[LedgerRow]:
    refusal = _refusal(request, levels)
    if refusal is not None:
        return [refused_row(request.request_id, refusal, request.kind, request.order_id, request.lines)]
    return [
        LedgerRow(request.request_id, request.kind, line, sku, delta, levels[sku] + delta, request.order_id)
        for line, (sku, delta) in enumerate(request.lines.items(), start=1)
    ]


def _refusal(request: ChangeRequest, levels: Mapping[str, int]) -> ServiceError | None:
    unknown = [sku for sku in request.lines if sku not in levels]
    if unknown:
        return SkuNotFound(f"Unknown SKU: {', '.join(unknown)}.", skus=unknown)
    short = [
        {"sku": sku, "requested": -delta, "available": levels[sku]}
        for sku, delta in request.lines.items()
        if levels[sku] + delta < 0
    ]
    if short:
        named = ", ".join(f"{line['sku']} (requested {line['requested']}, {line['available']} left)" for line in short)
        return OutOfStock(f"Not enough stock of {named}.", lines=short)
    if any(levels[sku] + delta > STOCK_MAX for sku, delta in request.lines.items()):
        return StockLimitExceeded(f"A SKU may hold {STOCK_MAX} at the most.")
    return None


def refused_row(
    request_id: str,
    refusal: ServiceError,
    kind: LedgerKind = LedgerKind.DEDUCT,
    order_id: str | None = None,
    lines: Mapping[str, int] | None = None,
) -> LedgerRow:
    """The record that a request took nothing and never will, so that a late copy of it is refused alike."""
    record = refusal.to_problem() | ({_ASKED: dict(lines)} if lines is not None else {})
    return LedgerRow(request_id, kind, 1, None, 0, 0, order_id, json.dumps(record))


def outcome_of(request_id: str, rows: list[LedgerRow]) -> StockChange | ServiceError:
    """What the ledger rows of one request say became of it."""
    if is_rolled_back(rows):
        return StockRequestRolledBack(f"The request {request_id} was rolled back.")
    if rows[0].refusal is not None:
        record = json.loads(rows[0].refusal)
        record.pop(_ASKED, None)
        return error_from_problem(record)
    return _change(request_id, rows)


def replay(request: ChangeRequest, rows: list[LedgerRow]) -> StockChange | ServiceError:
    """The answer to a request that was decided before; the same id with other lines is a mistake of the caller."""
    asked = {row.sku: row.delta for row in rows if row.kind is request.kind and row.sku is not None}
    if rows[0].refusal is not None:
        asked = json.loads(rows[0].refusal).get(_ASKED, {})
    if asked and asked != dict(request.lines):
        return IdempotencyMismatch(f"The request_id {request.request_id} was used before with other lines.")
    return outcome_of(request.request_id, rows)


def is_rolled_back(rows: Iterable[LedgerRow]) -> bool:
    return any(row.kind is LedgerKind.ROLLBACK for row in rows)


def undo(request_ids: Iterable[str], stock: Mapping[str, int], recorded: Mapping[str, list[LedgerRow]]) -> Allocation:
    """Give back what each request took; a request that is not recorded yet is refused from now on."""
    levels = dict(stock)
    result = Allocation(deltas=dict.fromkeys(stock, 0))
    rows_of = dict(recorded)
    for request_id in request_ids:
        rows = rows_of.get(request_id)
        if rows is None:
            rows = [refused_row(request_id, StockRequestRolledBack("The request was rolled back before it arrived."))]
            result.rows.extend(rows)
        elif not is_rolled_back(rows):
            given_back = [_inverse(row, levels) for row in rows if row.sku is not None]
            for row in given_back:
                assert row.sku is not None
                levels[row.sku] = row.quantity
                result.deltas[row.sku] += row.delta
            result.rows.extend(given_back)
            rows = rows + given_back
        rows_of[request_id] = rows
        result.outcomes.append(_change(request_id, [row for row in rows if row.kind is LedgerKind.ROLLBACK]))
    return result


def _inverse(row: LedgerRow, levels: Mapping[str, int]) -> LedgerRow:
    assert row.sku is not None
    return replace(row, kind=LedgerKind.ROLLBACK, delta=-row.delta, quantity=levels[row.sku] - row.delta)


def _change(request_id: str, rows: Iterable[LedgerRow]) -> StockChange:
    movements = [
        StockMovement(sku=row.sku, delta=row.delta, quantity=row.quantity) for row in rows if row.sku is not None
    ]
    return StockChange(request_id=request_id, items=movements)
