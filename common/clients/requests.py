"""What the caller's arguments become before anything is sent. Pure."""

from collections.abc import Mapping, Sequence
from types import TracebackType

from pydantic import ValidationError
from uuid_utils import uuid7

from common.contracts.inventory import StockLine
from common.errors import invalid_request

Items = Mapping[str, int] | Sequence[StockLine]
"""The lines of a cart: ``{sku: quantity}`` or StockLines."""


def stock_lines(items: Items) -> list[StockLine]:
    if isinstance(items, Mapping):
        return [StockLine(sku=sku, quantity=quantity) for sku, quantity in items.items()]
    return list(items)


def new_request_id() -> str:
    """A key under which a call takes effect once, however often it is sent."""
    return str(uuid7())


class _NamedFields:
    """Turns pydantic's ValidationError into the InvalidRequest that the service would have answered with."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ValidationError):
            raise invalid_request(error) from None


named_fields = _NamedFields()
