"""The rows of the audit as people read them."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from vv.audit.facts import GatewayEntry


def stock(quantities: Mapping[str, int]) -> str:
    """So many of each SKU: ``2 x MUG-1, 1 x CUP-1``."""
    return ", ".join(f"{quantity} x {sku}" for sku, quantity in quantities.items()) or "nothing"


def sums(entries: Iterable[tuple[str, int, str]]) -> str:
    """Money, in minor units, with the keys under which it moved."""
    return ", ".join(f"{amount} {currency} ({key})" for key, amount, currency in entries) or "nothing"


def listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"


def row(facts: Any) -> str:
    """Every field of some facts, in a line; facts within them are in brackets."""
    return "; ".join(f"{field.name}: {_value(getattr(facts, field.name))}" for field in fields(facts))


def _value(value: object) -> str:
    """A field as it is read; what is empty, or not there, is a dash."""
    if value in (None, "", [], {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case GatewayEntry(key, kind, _, amount, currency):
            return f"{kind} of {amount} {currency} ({key})"
        case dict():
            return ", ".join(f"{name} = {_value(each)}" for name, each in value.items())
        case list():
            return ", ".join(map(_value, value))
        case tuple():
            return " ".join(map(_value, value))
        case _ if is_dataclass(value):
            return f"({row(value)})"
        case _:
            return str(value)
