"""Every fault as a row of a table."""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from tests.faults.harness import (
    clock_faults,
    database_faults,
    disk_faults,
    gateway_faults,
    http_faults,
    link_faults,
    process_faults,
)
from tests.faults.harness.cluster import Cluster
from vv.databases import SERVICES

Inflict = Callable[[Cluster, random.Random], Awaitable[int]]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    ``inflict`` makes it, lets it last for a while, heals it, and tells how often it truly hit something: 0 means that
    nobody noticed. ``why_not`` tells why this machine cannot have it, None if it can.
    """

    name: str
    description: str
    inflict: Inflict
    why_not: Callable[[Cluster], str | None] = lambda _: None


PROCESSES = ("order", "inventory", "payment", "gateway", "database")
HTTP_LINKS = ("buyer-order", "order-inventory", "order-payment", "payment-gateway")
DATABASE_LINKS = ("order-database", "inventory-database", "payment-database")


def _rows() -> list[Fault]:
    return [*_process_rows(), *_link_rows(), *_request_rows(), *_database_rows(), *_gateway_rows()]


def _process_rows() -> list[Fault]:
    return [
        Fault(f"{kind}-{name}", description.format(name), inflict(name))
        for kind, description, inflict in (
            ("kill", "kill -9 of {}, then a restart", process_faults.killed),
            ("stop", "SIGSTOP of {} for longer than a lease, then SIGCONT", process_faults.asleep),
            ("term", "SIGTERM of {} in the middle of load, then a restart", process_faults.told_to_end),
        )
        for name in PROCESSES
    ] + [
        Fault(f"clock-{name}", f"the clock of {name} is an hour off", clock_faults.hour_off(name), clock_faults.why_not)
        for name in PROCESSES
    ]


def _link_rows() -> list[Fault]:
    return [
        Fault(f"{trouble}-{link}", f"{link} {description}", link_faults.on_link(link, trouble))
        for trouble, (description, _) in link_faults.TROUBLES.items()
        for link in (*HTTP_LINKS, *DATABASE_LINKS)
    ]


def _request_rows() -> list[Fault]:
    return [
        *(
            Fault(f"duplicated-{link}", f"{link} delivers every request twice", http_faults.duplicated(link))
            for link in HTTP_LINKS
        ),
        *(
            Fault(
                f"held-{what}",
                f"{held.link} holds a {what} back until its caller gave up and it was undone, and delivers it then",
                http_faults.held_back(what),
            )
            for what, held in http_faults.HELD.items()
        ),
    ]


def _database_rows() -> list[Fault]:
    return [
        Fault(
            "data-folder-full",
            "the data folder of the database is full, and free again",
            disk_faults.data_folder_full,
            lambda cluster: cluster.disk.why_not,
        ),
        Fault("connections-killed", "KILL of random database connections", database_faults.connections_killed),
        *(
            Fault(
                f"rows-locked-{service}",
                f"somebody locks rows of {service} for longer than it waits for locks (error 1205)",
                database_faults.rows_locked(service),
            )
            for service in SERVICES
        ),
        *(
            Fault(
                f"pool-exhausted-{service}",
                f"all database connections of {service} are busy for longer than it waits for one",
                database_faults.pool_exhausted(service),
            )
            for service in SERVICES
        ),
    ]


def _gateway_rows() -> list[Fault]:
    return [
        Fault(f"gateway-{how}", f"the gateway {made.description}", gateway_faults.misbehaves(how))
        for how, made in gateway_faults.MISBEHAVIOURS.items()
    ]


FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _rows()}
