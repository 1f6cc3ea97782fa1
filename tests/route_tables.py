"""The route tables of the three services, for tests that must not forget an endpoint."""

from typing import NamedTuple

import inventory_service.app
import inventory_service.handlers
import order_service.app
import order_service.handlers
import payment_service.app
import payment_service.handlers
from common.routes import Route

# The tables need the handlers' methods, and these need use cases only when they are called.
ROUTES: dict[str, list[Route]] = {
    "order": order_service.app.routes(object.__new__(order_service.handlers.Handlers)),
    "inventory": inventory_service.app.routes(object.__new__(inventory_service.handlers.Handlers)),
    "payment": payment_service.app.routes(object.__new__(payment_service.handlers.Handlers)),
}
KIT_PATHS = ("/livez", "/readyz", "/health", "/metrics", "/openapi.json", "/docs")


class Endpoint(NamedTuple):
    """A row of a service's route table."""

    service: str
    route: Route

    def __str__(self) -> str:
        return f"{self.route.method} {self.route.path}"


ENDPOINTS = [Endpoint(service, route) for service, routes in ROUTES.items() for route in routes]
