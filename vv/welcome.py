"""What ``vv up`` says once everything is ready: where things are, and two commands to paste."""

import secrets
import shlex
from collections.abc import Mapping

from vv import certs
from vv.stack import Stack

_JSON_HEADER = "-H 'Content-Type: application/json'"


def welcome(stack: Stack, environment: Mapping[str, str]) -> list[str]:
    return [
        "",
        "Ready.",
        "",
        *([f"  {'front door':<10} {stack.front_door.url}"] if stack.front_door else []),
        *(f"  {service:<10} {url}   {url}/docs" for service, url in stack.urls.items()),
        "",
        f"  data       {stack.data_dir}",
        f"  logs       {stack.logs_dir}",
        *([f"  certs      {stack.certificates}"] if stack.tls or stack.front_door else []),
        "  stop       Ctrl-C",
        "",
        *_to_paste(stack, asks_for_tokens=bool(environment.get("ORDER_AUTH_ISSUER") or environment.get("AUTH_ISSUER"))),
        "",
    ]


def _to_paste(stack: Stack, *, asks_for_tokens: bool) -> list[str]:
    # A new SKU each time, so that what is pasted finds stock; pasted again, the first call is refused in silence.
    sku = f"MUG-{secrets.token_hex(3)}"
    stock = f'{{"product_id": "mug", "sku": "{sku}", "quantity": 1000000}}'
    buyer = "" if asks_for_tokens else '"user_id": "ann", '
    order = f'{{{buyer}"sku": "{sku}", "quantity": 2, "total_amount": 1998, "currency": "USD"}}'
    notes, proof, order_url, stock_url = _way(stack, asks_for_tokens=asks_for_tokens)
    curl = " ".join(["curl -sS", *proof])
    return [
        *notes,
        "Create stock and order of it; paste this as it is:",
        "",
        f"  {curl} -o /dev/null {stock_url}/inventory/create {_JSON_HEADER} -d {shlex.quote(stock)} && \\",
        f"  {curl} {order_url}/orders {_JSON_HEADER} -d {shlex.quote(order)}",
    ]


def _way(stack: Stack, *, asks_for_tokens: bool) -> tuple[list[str], list[str], str, str]:
    """The way in for who only has a shell: what to know, curl's options, and the URLs of orders and stock."""
    operator, key, ca = (shlex.quote(str(path)) for path in certs.files_of(stack.certificates, certs.OPERATOR))
    token = ['-H "Authorization: Bearer $TOKEN"'] if asks_for_tokens else []
    notes = ["TOKEN is to be an access token of the issuer, with stock:write and orders:write.", ""]
    notes = notes if asks_for_tokens else []
    if stack.front_door is not None and (asks_for_tokens or not stack.tls):
        return notes, ["--cacert", ca, *token], stack.front_door.url, stack.front_door.url
    if stack.tls:
        notes = ["Through the front door come users, with tokens: set AUTH_ISSUER to let any in.", ""]
        proof = ["--cacert", ca, "--cert", operator, "--key", key]
        return notes if stack.front_door else [], proof, stack.urls["order"], stack.urls["inventory"]
    return notes, token, stack.urls["order"], stack.urls["inventory"]
