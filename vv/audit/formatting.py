"""Facts as text for people: quantities, money, whole rows."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from vv.audit.facts import GatewayEntry


def stock(quantities: Mapping[str, int]) -> str:
    """The quantity of each SKU: ``2 x MUG-1, 1 x CUP-1``."""
    return ", ".join(f"{quantity} x {sku}" for sku, quantity in quantities.items()) or "nothing"


def sums(entries: Iterable[tuple[str, int, str]]) -> str:
    """Amounts in minor units, each with its key: ``700 USD (o-1:charge)``."""
    return ", ".join(f"{amount} {currency} ({key})" for key, amount, currency in entries) or "nothing"


def listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"


def row(facts: Any) -> str:
    """All fields of a facts object in one line; nested facts are in parentheses."""
    return "; ".join(f"{field.name}: {_value(getattr(facts, field.name))}" for field in fields(facts))


def _value(value: object) -> str:
    """The value of a field; a dash for None and for what is empty."""
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
