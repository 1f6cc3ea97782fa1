"""What is measured, as data: the stacks, and the load on each of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

# Name -> the settings in which a stack differs from the defaults.
STACKS: Mapping[str, Mapping[str, str]] = {
    "on": {},
    "off": {"ORDER_MAX_BATCH": "1", "INVENTORY_MAX_BATCH": "1", "PAYMENT_MAX_BATCH": "1"},
    "gateway": {"PAYMENT_SANDBOX_LATENCY_S": "0.5"},
    "full": {},
}
# Not a stack: the handler that does nothing.
FLOOR = "floor"

SKUS = 1_000


@dataclass(frozen=True)
class Measurement:
    """One load on one server, for the time of a run.

    :param name: what it is called in figures, in JSON and after ``--only``
    :param server: the name of a stack, or the floor
    :param clients: connections, each of which sends its next order when it has the reply
    :param skus: how many SKUs the orders are about, chosen at random
    :param lines: different SKUs in a cart
    """

    name: str
    server: str
    clients: int
    skus: int = 1
    lines: int = 1


MEASUREMENTS: Sequence[Measurement] = (
    Measurement("hot_64_on", "on", 64),
    Measurement("hot_64_off", "off", 64),
    Measurement("hot_64_gateway", "gateway", 64),
    Measurement("floor_64", FLOOR, 64),
    Measurement("hot_256_on", "on", 256),
    Measurement("hot_256_off", "off", 256),
    Measurement("hot_256_gateway", "gateway", 256),
    Measurement("hot_256_full", "full", 256),
    Measurement("floor_256", FLOOR, 256),
    Measurement("spread_64_on", "on", 64, skus=SKUS),
    Measurement("spread_64_off", "off", 64, skus=SKUS),
    Measurement("spread_256_on", "on", 256, skus=SKUS),
    Measurement("spread_256_off", "off", 256, skus=SKUS),
    Measurement("carts_64_on", "on", 64, skus=SKUS, lines=3),
    Measurement("carts_64_off", "off", 64, skus=SKUS, lines=3),
    Measurement("carts_256_on", "on", 256, skus=SKUS, lines=3),
    Measurement("carts_256_off", "off", 256, skus=SKUS, lines=3),
    Measurement("hot_1000_on", "on", 1_000),
    Measurement("hot_1000_gateway", "gateway", 1_000),
)


def select(patterns: Iterable[str]) -> list[Measurement]:
    """The measurements whose name matches one of ``patterns`` (as file names do), in the order of the plan."""
    wanted = list(patterns)
    return [one for one in MEASUREMENTS if any(fnmatchcase(one.name, pattern) for pattern in wanted)]
