"""JSON log lines (structlog) and Prometheus metrics, the same in the three services."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST as METRICS_CONTENT_TYPE
from prometheus_client.exposition import generate_latest

from common import context, worker_metrics

__all__ = [
    "LATENCY_BUCKETS_S",
    "METRICS_CONTENT_TYPE",
    "Metrics",
    "bind_caller",
    "bind_orders",
    "configure_logging",
    "log",
]

log: structlog.stdlib.BoundLogger = structlog.get_logger()
# Where nobody configures anything, in the vv command and in scripts, standard output belongs to the program.
structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))

# A series of creation times for each counter doubles what is scraped, and nothing reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]

# json.dumps with options makes a new encoder for each line.
_ENCODER = json.JSONEncoder(default=repr)
_TO_JSON = structlog.processors.JSONRenderer(serializer=lambda event, **_: _ENCODER.encode(event))

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


def configure_logging(service: str, level: str, worker: int | None = None) -> None:
    """Write one JSON object a line to standard output, our own events and the libraries' alike."""
    origin = {"service": service} | ({} if worker is None else {"worker": worker})

    def add_context(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.update(origin)
        request_id = context.request_id.get()
        if request_id is not None:
            event.setdefault("request_id", request_id)
        trace = context.trace_context.get()
        if trace is not None:
            _, event["trace_id"], event["span_id"], _ = trace.split("-")
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_context,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, _TO_JSON],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _TO_JSON,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, logging.getLevelNamesMapping()[level]))


def bind_caller(name: str) -> None:
    """Put who calls into every further log line of this request."""
    structlog.contextvars.bind_contextvars(caller=name)


def bind_orders(*order_ids: str | None) -> None:
    """Put the ids of the orders that it is about into every further log line of this request."""
    known = [order_id for order_id in order_ids if order_id is not None]
    if len(known) == 1:
        structlog.contextvars.bind_contextvars(order_id=known[0])
    elif known:
        structlog.contextvars.bind_contextvars(order_ids=known)


class Metrics:
    """The metrics that every service has; a service adds its own to ``registry``.

    Of several ``workers`` each answers for all; a gauge says by its ``multiprocess_mode`` what that is.
    """

    def __init__(self, service: str, workers: int = 1) -> None:
        self._workers = workers
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._gauge = partial(Gauge, registry=self.registry)
        # What each worker holds adds up.
        self._held = partial(self._gauge, multiprocess_mode="livesum")
        self._counter = partial(Counter, registry=self.registry)
        self._seconds = partial(Histogram, registry=self.registry, buckets=LATENCY_BUCKETS_S)
        info = self._gauge("vv_service_info", "1, labelled with the service", ["service"], multiprocess_mode="livemax")
        info.labels(service).set(1)
        self._tasks = self._held("vv_asyncio_tasks", "Tasks of the event loop when this was asked for")
        self._measure_requests()
        self._measure_database()
        self._measure_batches()
        self.recovered = self._counter(
            "vv_recovery_items",
            "What recovery took up after its lease ran out, by the state in which it left it",
            ["state"],
        )

    def _measure_requests(self) -> None:
        self.requests = self._counter(
            "vv_http_requests", "HTTP requests by method, route template and status", ["method", "route", "status"]
        )
        self.latency = self._seconds(
            "vv_http_request_duration_seconds",
            "Time from the parsed head of a request to its reply",
            ["method", "route"],
        )
        self.in_flight = self._held("vv_http_requests_in_flight", "Requests being answered now")
        self.refusals = self._counter(
            "vv_auth_refusals",
            "Requests whose caller did not prove its identity, or may not do this, by what was wrong",
            ["reason"],
        )

    def _measure_database(self) -> None:
        self.pool_in_use = self._held("vv_db_pool_connections_in_use", "Database connections taken from the pool")
        self.pool_max = self._held("vv_db_pool_connections_max", "Database connections that the pool may have")
        self.pool_wait = self._seconds("vv_db_pool_wait_seconds", "Time spent waiting for a database connection")
        self.transaction_duration = self._seconds(
            "vv_db_transaction_duration_seconds",
            "Time that a database connection was held for a transaction or a read",
        )
        self.transaction_retries = self._counter(
            "vv_db_transaction_retries", "Transactions that were run again, by MySQL error number", ["errno"]
        )
        self.database_failures = self._counter(
            "vv_db_failures",
            "Transactions and reads that the database did not carry out, by MySQL error number, or timeout",
            ["errno"],
        )

    def _measure_batches(self) -> None:
        self.batch_size = Histogram(
            "vv_batch_items",
            "Items that shared a transaction or call",
            ["batcher"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self.batch_wait = self._seconds(
            "vv_batch_wait_seconds", "Time from an item's arrival to the start of its batch", ["batcher"]
        )
        self.batches_in_flight = self._held("vv_batches_in_flight", "Batches on their way now", ["batcher"])

    def certificate_expiry(self) -> Gauge:
        """A gauge that only a service with a certificate has: without one, 0 would be taken for the year 1970."""
        return Gauge(
            "vv_tls_certificate_expiry_timestamp_seconds",
            "When the certificate of the service expires (Unix time)",
            registry=self.registry,
            multiprocess_mode="livemin",
        )

    @contextmanager
    def timed(self, histogram: Histogram) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            histogram.observe(time.perf_counter() - started)

    def exposition(self) -> bytes:
        """What ``/metrics`` answers; asked for within the event loop."""
        self._tasks.set(len(asyncio.all_tasks()))
        return generate_latest(self.registry) if self._workers == 1 else worker_metrics.exposition_of_all()
