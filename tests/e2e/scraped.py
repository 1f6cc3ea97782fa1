"""What a service says on ``/metrics``, as numbers."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.raw import Server


def samples(server: Server, name: str) -> list[dict[str, Any]]:
    """The samples of a metric: their labels, and ``value``."""
    answer = server.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return [
        {**sample.labels, "value": sample.value}
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
        if sample.name == name
    ]


def metric(server: Server, name: str, **labels: str) -> float:
    """The value of a metric, 0 before it is first counted."""
    return float(sum(sample["value"] for sample in samples(server, name) if labels.items() <= sample.items()))
