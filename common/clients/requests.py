"""What the caller's arguments become before anything is sent. Pure."""

from collections.abc import Mapping, Sequence
from types import TracebackType

from pydantic import ValidationError
from uuid_utils import uuid7

from common.contracts.inventory import StockLine
from common.errors import InvalidRequest

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
            found = [
                {"field": ".".join(map(str, mistake["loc"])) or "body", "message": mistake["msg"]}
                for mistake in error.errors(include_input=False, include_url=False, include_context=False)
            ]
            detail = "; ".join(f"{one['field']}: {one['message']}" for one in found)
            raise InvalidRequest(detail, errors=found) from None


named_fields = _NamedFields()
