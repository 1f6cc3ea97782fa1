"""What pydantic refuses, in words: people are shown neither its patterns nor the names of its types."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from common.contracts.base import EXPECTED

_WORDS: Mapping[str, str] = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "string_type": "must be a string",
    "string_unicode": "must be a string of Unicode",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number, and not as long as this one",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}
_WORDS_WITH_BOUNDS: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "string_pattern_mismatch": lambda bounds: EXPECTED.get(bounds["pattern"], "does not look as it must"),
    "string_too_short": lambda bounds: f"must have {_least(bounds, 'character')}",
    "string_too_long": lambda bounds: f"must have {_most(bounds, 'character')}",
    "too_short": lambda bounds: f"must have {_least(bounds, 'item')}",
    "too_long": lambda bounds: f"must have {_most(bounds, 'item')}",
    "greater_than": lambda bounds: f"must be more than {_number(bounds['gt'])}",
    "greater_than_equal": lambda bounds: f"must be at least {_number(bounds['ge'])}",
    "less_than": lambda bounds: f"must be less than {_number(bounds['lt'])}",
    "less_than_equal": lambda bounds: f"must be at most {_number(bounds['le'])}",
    "literal_error": lambda bounds: f"must be {bounds['expected']}",
    "enum": lambda bounds: f"must be {bounds['expected']}",
    "json_invalid": lambda bounds: f"is no JSON: {bounds['error']}",
    "value_error": lambda bounds: str(bounds["error"]),
}


def in_words(mistake: ErrorDetails) -> str:
    """What is wrong and what is expected, to be read behind the name of the field. The value is not repeated."""
    kind = mistake["type"]
    if kind in _WORDS_WITH_BOUNDS:
        return _WORDS_WITH_BOUNDS[kind](mistake["ctx"])
    return _WORDS.get(kind, mistake["msg"])


def _least(bounds: dict[str, Any], what: str) -> str:
    return f"at least {_counted(bounds['min_length'], what)}"


def _most(bounds: dict[str, Any], what: str) -> str:
    return f"at most {_counted(bounds['max_length'], what)}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _number(bound: float) -> str:
    # All the digits of amounts, and no .0 behind seconds.
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
