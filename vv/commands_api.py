"""`vv order`, `vv stock` and `vv payment`: the services' calls as commands."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, TypeVar

import click
from uuid_utils import uuid7

from common.clients import InventoryClient, OrderClient, OrderStatus, PaymentClient
from common.contracts.base import PAGE_MAX
from common.contracts.orders import FINAL
from vv.api_output import show, show_all
from vv.api_session import EPILOG, Api, uses
from vv.errors import Unavailable

A = TypeVar("A", bound=Api[Any])

UNDECIDED = set(OrderStatus) - FINAL
LIMIT = 50
AMOUNT_HELP = "In minor units: 1999 is 19.99 USD."


class SkuQuantity(click.ParamType[tuple[str, int]]):
    """``SKU=N``; the SKU itself may contain ``=``."""

    name = "SKU=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        sku, _, quantity = str(value).rpartition("=")
        if not sku or not (quantity.isascii() and quantity.isdigit()):
            self.fail(f"{value!r} does not look like SKU=N", param, ctx)
        return sku, int(quantity)


def how_many(command: Callable[Concatenate[A, ...], None]) -> Callable[Concatenate[A, ...], None]:
    """Give a command that lists things the options --limit and --all, as ``limit``: None for all."""

    @click.option("--limit", type=click.IntRange(min=1), help=f"How many to print at the most.  [default: {LIMIT}]")
    @click.option("--all", "everything", is_flag=True, help="Print all there are.")
    @wraps(command)
    def call(api: A, limit: int | None, everything: bool, **arguments: Any) -> None:
        if everything and limit is not None:
            raise click.UsageError("Give either --limit or --all.")
        command(api, limit=None if everything else limit or LIMIT, **arguments)

    return call


def page_size(limit: int | None) -> int:
    """One more than are printed, so that the first page tells whether there are more."""
    return PAGE_MAX if limit is None else min(limit + 1, PAGE_MAX)


@click.group(epilog=EPILOG)
def order() -> None:
    """Place orders and follow them."""


@order.command("create", epilog=EPILOG)
@click.option("--user", "user_id", help="Who buys.  [default: whose token it is]")
@click.option("--sku", help="What to buy, if it is one SKU.")
@click.option("--quantity", type=int, help="How many of --sku.  [default: 1]")
@click.option("--item", "items", type=SkuQuantity(), multiple=True, help="What to buy; may be repeated.")
@click.option("--amount", type=int, required=True, help=f"The total. {AMOUNT_HELP}")
@click.option("--currency", default="USD", show_default=True, help="ISO 4217.")
@click.option("--payment-method", default="tok_ok", show_default=True, help="The token to charge.")
@click.option("--idempotency-key", help="The same key places one order only.  [default: a new one]")
@uses(OrderClient, "order")
def order_create(
    api: Api[OrderClient],
    user_id: str | None,
    sku: str | None,
    quantity: int | None,
    items: tuple[tuple[str, int], ...],
    amount: int,
    currency: str,
    payment_method: str,
    idempotency_key: str | None,
) -> None:
    """Place an order, of one --sku or of several --item."""
    if (sku is None) == (not items):
        raise click.UsageError("Give either --sku or --item.")
    if quantity is not None and sku is None:
        raise click.UsageError("--quantity goes with --sku; --item has its own: SKU=N.")
    cart: dict[str, int] = {}
    for item_sku, item_quantity in items:
        cart[item_sku] = cart.get(item_sku, 0) + item_quantity
    key = idempotency_key or str(uuid7())
    with api.calling(repeat_with=f"--idempotency-key {key}") as orders:
        placed = orders.create(
            user_id=user_id,
            sku=sku,
            quantity=quantity,
            items=cart or None,
            total_amount=amount,
            currency=currency,
            payment_method=payment_method,
            idempotency_key=key,
        )
        show(placed, as_json=api.as_json)
    if placed.status in UNDECIDED:
        raise Unavailable(f"It is not decided yet what becomes of the order; see: vv order get {placed.order_id}")


@order.command("get", epilog=EPILOG)
@click.argument("order_id")
@uses(OrderClient, "order")
def order_get(api: Api[OrderClient], order_id: str) -> None:
    """Print an order."""
    with api.calling() as orders:
        show(orders.get(order_id), as_json=api.as_json)


@order.command("list", epilog=EPILOG)
@click.option("--user", "user_id", help="Only this user's.")
@click.option("--status", type=click.Choice([status.value for status in OrderStatus]), help="Only in this status.")
@uses(OrderClient, "order")
@how_many
def order_list(api: Api[OrderClient], user_id: str | None, status: str | None, limit: int | None) -> None:
    """Print orders, newest first."""
    with api.calling() as orders:
        found = orders.list(user_id=user_id, status=status, page_size=page_size(limit))
        show_all(found, limit=limit, as_json=api.as_json, nothing="No such orders.")


@order.command("cancel", epilog=EPILOG)
@click.argument("order_id")
@uses(OrderClient, "order")
def order_cancel(api: Api[OrderClient], order_id: str) -> None:
    """Cancel an order: its stock is put back and its money returned."""
    with api.calling() as orders:
        show(orders.cancel(order_id), as_json=api.as_json)


@order.command("events", epilog=EPILOG)
@click.argument("order_id")
@uses(OrderClient, "order")
def order_events(api: Api[OrderClient], order_id: str) -> None:
    """Print every transition of an order, with its time (UTC) and reason."""
    with api.calling() as orders:
        show(orders.events(order_id), as_json=api.as_json)


@click.group(epilog=EPILOG)
def stock() -> None:
    """Read and change stock."""


@stock.command("create", epilog=EPILOG)
@click.argument("sku")
@click.option("--product", "product_id", required=True, help="The product that the SKU belongs to.")
@click.option("--quantity", type=int, required=True, help="The first stock.")
@uses(InventoryClient, "inventory")
def stock_create(api: Api[InventoryClient], sku: str, product_id: str, quantity: int) -> None:
    """Add a new SKU."""
    with api.calling() as inventory:
        show(inventory.create(product_id=product_id, sku=sku, quantity=quantity), as_json=api.as_json)


@stock.command("get", epilog=EPILOG)
@click.argument("sku")
@uses(InventoryClient, "inventory")
def stock_get(api: Api[InventoryClient], sku: str) -> None:
    """Print the stock of a SKU."""
    with api.calling() as inventory:
        show(inventory.get(sku), as_json=api.as_json)


@stock.command("add", epilog=EPILOG)
@click.argument("sku")
@click.option("--quantity", type=int, required=True, help="How many to add.")
@click.option("--request-id", help="The same id adds once only.  [default: a new one]")
@uses(InventoryClient, "inventory")
def stock_add(api: Api[InventoryClient], sku: str, quantity: int, request_id: str | None) -> None:
    """Add stock to a SKU."""
    request_id = request_id or str(uuid7())
    with api.calling(repeat_with=f"--request-id {request_id}") as inventory:
        show(inventory.increase(sku=sku, quantity=quantity, request_id=request_id), as_json=api.as_json)


@stock.command("ledger", epilog=EPILOG)
@click.argument("sku")
@uses(InventoryClient, "inventory")
@how_many
def stock_ledger(api: Api[InventoryClient], sku: str, limit: int | None) -> None:
    """Print the changes of a SKU's stock, newest first."""
    with api.calling() as inventory:
        found = inventory.ledger(sku, page_size=page_size(limit))
        show_all(found, limit=limit, as_json=api.as_json, nothing="No changes.")


@click.group(epilog=EPILOG)
def payment() -> None:
    """Read payments and give money back."""


@payment.command("get", epilog=EPILOG)
@click.argument("order_id")
@uses(PaymentClient, "payment")
def payment_get(api: Api[PaymentClient], order_id: str) -> None:
    """Print the payment of an order."""
    with api.calling() as payments:
        show(payments.get(order_id), as_json=api.as_json)


@payment.command("refund", epilog=EPILOG)
@click.argument("order_id")
@click.option("--amount", type=int, help=f"How much. {AMOUNT_HELP}  [default: all that is left]")
@click.option("--request-id", help="The same id refunds once only.  [default: a new one]")
@uses(PaymentClient, "payment")
def payment_refund(api: Api[PaymentClient], order_id: str, amount: int | None, request_id: str | None) -> None:
    """Give back the money of an order, or a part of it."""
    request_id = request_id or str(uuid7())
    with api.calling(repeat_with=f"--request-id {request_id}") as payments:
        show(payments.refund(order_id=order_id, amount=amount, request_id=request_id), as_json=api.as_json)
