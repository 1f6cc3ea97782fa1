"""The language of access: what a token may allow, which services there are, and who may call a route."""

from dataclasses import dataclass
from enum import StrEnum

from common.errors import Forbidden, invalid_field


class Scope(StrEnum):
    """What the token of a user may allow. Scopes say what; ORDERS_ADMIN says that it is not only the user's own."""

    ORDERS_WRITE = "orders:write"
    ORDERS_READ = "orders:read"
    ORDERS_ADMIN = "orders:admin"
    STOCK_WRITE = "stock:write"
    STOCK_READ = "stock:read"
    PAYMENTS_READ = "payments:read"
    PAYMENTS_REFUND = "payments:refund"


class Service(StrEnum):
    """Who has a certificate, or a token of its own: the name is a DNS name in the one, ``service:NAME`` a scope of
    the other. Programs that are not listed here are nobody."""

    ORDER = "order"
    INVENTORY = "inventory"
    PAYMENT = "payment"
    OPERATOR = "operator"
    """Not a program but a person: may do everything."""


SERVICE_SCOPE = "service:"

# Marks a field that may be left out where a token says what would stand in it.
FROM_TOKEN = {"x-from-token": True}


@dataclass(frozen=True)
class Access:
    """Who may call a route: users whose token has ``scope`` (without one: no user at all), and ``services``."""

    scope: Scope | None
    services: frozenset[Service]


def users(scope: Scope) -> Access:
    """A route for users whose token has ``scope``."""
    return Access(scope, frozenset({Service.OPERATOR}))


def services(*names: Service) -> Access:
    """An internal route: for these services, and no user."""
    return Access(None, frozenset({*names, Service.OPERATOR}))


@dataclass(frozen=True)
class Caller:
    """Who a request comes from. A user has a ``user_id``; who is ``trusted`` may act for every user."""

    name: str
    user_id: str | None = None
    trusted: bool = False

    @property
    def owner(self) -> str | None:
        """Whose things alone the caller sees and changes; None for everybody's."""
        assert self.trusted or self.user_id is not None, "nobody is not everybody"
        return None if self.trusted else self.user_id

    def acting_for(self, user_id: str | None) -> str:
        """The user that a request is about, which may name them as ``user_id``.

        Raises InvalidRequest when nobody is named, and Forbidden when it is somebody else than the caller.
        """
        if not self.trusted and user_id not in (None, self.user_id):
            raise Forbidden("user_id: The token is another user's; leave the field out.")
        found = user_id or self.user_id
        if found is None:
            raise invalid_field("user_id", "is missing")
        return found

    def asking_for(self, user_id: str | None) -> str | None:
        """The user whose things a list is to have, which may name them as ``user_id``; None for everybody's.

        Raises Forbidden when it is somebody else than the caller.
        """
        return user_id if self.trusted else self.acting_for(user_id)


ANYBODY = Caller("anybody", trusted=True)
"""The caller where there is no authentication."""
