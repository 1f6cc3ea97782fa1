"""What the inventory service tells Prometheus about its stock."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from common.telemetry import LATENCY_BUCKETS_S


class StockMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.lock_wait = Histogram(
            "vv_stock_lock_wait_seconds",
            "Time that a request stood in line for a SKU whose row somebody else held, until it was served, put_off "
            "(one of many, to be asked for again alone) or gave_up",
            ["outcome"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.drift_rounds = Counter(
            "vv_ledger_rounds", "Rounds of the light audit that were carried out", registry=registry
        )
        self.checked = Counter(
            "vv_ledger_checked_skus", "SKUs whose ledger was held against their stock", registry=registry
        )
        self.drifting = Gauge(
            "vv_ledger_drift_skus",
            "SKUs whose ledger did not sum up to their stock when it was last looked at",
            registry=registry,
            # One worker of them all does this.
            multiprocess_mode="livesum",
        )
