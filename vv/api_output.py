"""How `vv` prints what the services answer: for people unless `--json` is given."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import singledispatch
from itertools import islice

import click
from pydantic import BaseModel

from common.clients import LedgerEntry, Order, OrderTimeline, Payment, StockChange, StockLevel

Rows = Sequence[tuple[str, str]]

# ISO 4217: the digits after the point of the currencies that do not have two.
_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}


def money(amount: int, currency: str) -> str:
    """Minor units as people write them: 1999 USD is ``19.99 USD``, 1999 JPY is ``1999 JPY``."""
    digits = next((digits for digits, currencies in _DIGITS.items() if currency in currencies), 2)
    whole, rest = divmod(amount, 10**digits)
    return f"{whole}.{rest:0{digits}} {currency}" if digits else f"{whole} {currency}"


def time_of(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def show(view: BaseModel, *, as_json: bool) -> None:
    """Print one contract: as a line of JSON, or its fields below each other."""
    if as_json:
        click.echo(view.model_dump_json())
    else:
        _print_columns(fields_of(view))


def show_all(views: Iterator[BaseModel], *, limit: int | None, as_json: bool, nothing: str) -> None:
    """Print contracts of one kind: as JSON, one a line, or as a table; ``nothing`` when there are none.

    When there are more than ``limit`` standard error says so. A reader that leaves early, such as ``head``, has got
    what it wanted.
    """
    try:
        _print_all(islice(views, limit), as_json=as_json, nothing=nothing)
        if next(views, None) is not None:
            hint = f"There are more than {limit}; --limit shows more of them, --all every one."
            click.echo(hint, err=True)
    except BrokenPipeError:
        # What could not be written is still in the buffer, and would be tried again, and complained about, at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_all(views: Iterable[BaseModel], *, as_json: bool, nothing: str) -> None:
    if as_json:
        for view in views:
            click.echo(view.model_dump_json())
        return
    rows = [fields_of(view) for view in views]
    if rows:
        _print_columns([[name.upper() for name, _ in rows[0]], *([value for _, value in row] for row in rows)])
    else:
        click.echo(nothing, err=True)


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    # Never cut to the width of the terminal: ids are there to be copied.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


@singledispatch
def fields_of(view: BaseModel) -> Rows:
    """The name and the text of everything worth reading in a contract."""
    raise NotImplementedError(type(view).__name__)


@fields_of.register
def _(order: Order) -> Rows:
    return [
        ("order", order.order_id),
        ("status", order.status.value),
        ("reason", order.reason or "-"),
        ("user", order.user_id),
        ("items", ", ".join(f"{line.quantity} x {line.sku}" for line in order.items)),
        ("amount", money(order.total_amount, order.currency)),
        ("paid with", order.payment_method),
        ("created", time_of(order.created_at)),
        ("updated", time_of(order.updated_at)),
    ]


@fields_of.register
def _(payment: Payment) -> Rows:
    return [
        ("payment", payment.payment_id),
        ("order", payment.order_id),
        ("status", payment.status.value),
        ("reason", payment.reason or "-"),
        ("user", payment.user_id or "-"),
        ("amount", money(payment.amount, payment.currency)),
        ("refunded", money(payment.refunded_amount, payment.currency)),
        ("paid with", payment.payment_method),
        ("created", time_of(payment.created_at)),
        ("updated", time_of(payment.updated_at)),
    ]


@fields_of.register
def _(level: StockLevel) -> Rows:
    return [("sku", level.sku), ("product", level.product_id), ("quantity", str(level.quantity))]


@fields_of.register
def _(change: StockChange) -> Rows:
    return [
        ("request", change.request_id),
        *((item.sku, f"{item.delta:+d}, now {item.quantity}") for item in change.items),
    ]


@fields_of.register
def _(entry: LedgerEntry) -> Rows:
    return [
        ("time", time_of(entry.created_at)),
        ("kind", entry.kind.value),
        ("delta", f"{entry.delta:+d}"),
        ("quantity", str(entry.quantity)),
        ("request", entry.request_id),
        ("order", entry.order_id or "-"),
    ]


@fields_of.register
def _(timeline: OrderTimeline) -> Rows:
    return [
        ("order", timeline.order_id),
        *(
            (time_of(event.created_at), event.status.value + (f" ({event.reason})" if event.reason else ""))
            for event in timeline.events
        ),
    ]
