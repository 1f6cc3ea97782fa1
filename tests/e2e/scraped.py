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


class Growth:
    """By how much metrics of a server grow during a block."""

    def __init__(self, server: Server, name: str) -> None:
        self._server, self._name = server, name
        self._before = self._read()

    def _read(self) -> dict[tuple[str, ...], float]:
        return {
            tuple(value for label, value in sorted(sample.items()) if label != "value"): sample["value"]
            for sample in samples(self._server, self._name)
        }

    def seen(self) -> dict[tuple[str, ...], float]:
        """By the values of the labels, in the order of their names; what has not grown is left out."""
        grown = {key: value - self._before.get(key, 0) for key, value in self._read().items()}
        return {key: value for key, value in grown.items() if value}
