"""Opaque cursors: where the next page of a list starts."""

import base64
import binascii
from collections.abc import Callable
from typing import TypeVar

from common.errors import invalid_field

P = TypeVar("P")


def encode_cursor(position: object) -> str:
    return base64.urlsafe_b64encode(str(position).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, position: Callable[[str], P]) -> P | None:
    """Read what :func:`encode_cursor` wrote, with ``position`` (``int``, ``UUID`` …), which raises ValueError.

    Raises InvalidRequest for a cursor that no page gave out.
    """
    if cursor is None:
        return None
    try:
        found = position(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii"))
    except (binascii.Error, ValueError):
        found = None
    # Parsers are lenient: int takes " 1_0 ", UUID takes braces.
    if found is None or encode_cursor(found) != cursor:
        raise invalid_field("cursor", "is not one that this service gave out.")
    return found
