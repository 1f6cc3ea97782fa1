"""What the three services expose on ``/metrics``, from the registries of real applications."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr

import inventory_service.app
import inventory_service.settings
import order_service.app
import order_service.settings
import payment_service.app
import payment_service.settings
from common.web import METRICS
from vv import certs

SERVICES = ("order", "inventory", "payment")
_URL = SecretStr("mysql://u:p@127.0.0.1/d")
# Of each process, labelled with the worker where there are several.
_PROCESS_LABELS = frozenset({"worker"})


@dataclass(frozen=True)
class Exposed:
    """A metric as Prometheus sees it: its name there, its kind, its labels, and which services have it."""

    name: str
    kind: str
    labels: frozenset[str]
    services: frozenset[str]
    documentation: str

    @property
    def series(self) -> Mapping[str, frozenset[str]]:
        """The names of its time series, with their labels."""
        if self.kind != "histogram":
            return {self.name: self.labels}
        return {
            f"{self.name}_bucket": self.labels | {"le"},
            f"{self.name}_sum": self.labels,
            f"{self.name}_count": self.labels,
        }


def exposed(folder: Path) -> dict[str, Exposed]:
    """The metrics of services that have everything switched on; certificates are made in ``folder``."""
    certs.ensure(folder)
    found: dict[str, Exposed] = {
        "vv_worker_pid": Exposed(
            "vv_worker_pid", "gauge", _PROCESS_LABELS, frozenset(SERVICES), "Process id of each worker"
        )
    }
    for service in SERVICES:
        for metric in _metrics_of(service, _registry_of(service, folder)):
            before = found.get(metric.name, metric)
            assert (before.kind, before.labels) == (metric.kind, metric.labels), metric.name
            found[metric.name] = Exposed(
                metric.name, metric.kind, metric.labels, before.services | {service}, metric.documentation
            )
    return found


def _registry_of(service: str, folder: Path) -> CollectorRegistry:
    certificate, key, ca = certs.files_of(folder, service)
    settings: dict[str, Any] = {"database_url": _URL, "tls_certificate": certificate, "tls_key": key, "tls_ca": ca}
    match service:
        case "order":
            app = order_service.app.make_app(order_service.settings.Settings(**settings))
        case "inventory":
            app = inventory_service.app.make_app(inventory_service.settings.Settings(**settings))
        case _:
            app = payment_service.app.make_app(payment_service.settings.Settings(**settings))
    return app[METRICS].registry


def _metrics_of(service: str, registry: CollectorRegistry) -> Iterator[Exposed]:
    for collector in list(registry._collector_to_names):
        for family in collector.collect():
            labels = frozenset(collector._labelnames) if isinstance(collector, MetricWrapperBase) else _PROCESS_LABELS
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield Exposed(name, family.type, labels, frozenset({service}), family.documentation)
