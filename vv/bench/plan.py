"""What is measured, as data: the stacks, and the load on each of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from common import tracing

# Name -> the settings in which a stack differs from the defaults.
STACKS: Mapping[str, Mapping[str, str]] = {
    "on": {},
    "off": {"ORDER_MAX_BATCH": "1", "INVENTORY_MAX_BATCH": "1", "PAYMENT_MAX_BATCH": "1"},
    "gateway": {"PAYMENT_SANDBOX_LATENCY_S": "0.5"},
    "full": {},
    # The floor takes the traces, and throws them away: a collector that did more would take the machine from us.
    "traced": {"TRACE_ENDPOINT": "{floor}", "TRACE_SAMPLE_RATIO": "0.1"},
}
# The stack whose tables are filled first.
FULL = "full"
# Not a stack: the handler that does nothing.
FLOOR = "floor"
# What needs the extra otel.
TRACED = "traced"

_SERVERS = {
    "on": "group commit",
    "off": "no group commit",
    "gateway": "gateway at 500 ms",
    FULL: "full tables",
    TRACED: "10 % traced",
    FLOOR: "empty handler",
}

SKUS = 1_000


@dataclass(frozen=True)
class Measurement:
    """One load on one server, for the time of a run.

    :param name: what it is called in figures, in JSON and after ``--only``
    :param server: the name of a stack, or the floor
    :param clients: connections; in a closed loop each of them sends its next order when it has the reply
    :param skus: how many SKUs the orders are about, chosen at random
    :param lines: different SKUs in a cart
    :param of_peak: an open loop at this share of the best throughput that ``PEAK_OF`` showed so far
    :param slices: parts into which a run is cut, in turns with the neighbours that are cut as often
    """

    name: str
    server: str
    clients: int
    skus: int = 1
    lines: int = 1
    of_peak: float | None = None
    slices: int = 1

    @property
    def label(self) -> str:
        """What it is, for people."""
        if self.server == FLOOR:
            return f"{_SERVERS[FLOOR]}, {self.clients:,} clients"
        what = f"carts of {self.lines}" if self.lines > 1 else "hot SKU" if self.skus == 1 else f"{self.skus:,} SKUs"
        return f"{what}, {self.clients:,} clients, {_SERVERS[self.server]}"


MEASUREMENTS: Sequence[Measurement] = (
    Measurement("hot_64_on", "on", 64),
    Measurement("hot_64_off", "off", 64),
    Measurement("hot_64_gateway", "gateway", 64),
    Measurement("floor_64", FLOOR, 64),
    # What is divided by each other is measured one after the other.
    Measurement("spread_256_on", "on", 256, skus=SKUS),
    # Their ratio is close to 1.
    Measurement("hot_256_on", "on", 256, slices=5),
    Measurement("hot_256_traced", TRACED, 256, slices=5),
    Measurement("hot_256_full", FULL, 256),
    Measurement("hot_256_off", "off", 256),
    Measurement("floor_256", FLOOR, 256),
    Measurement("hot_256_gateway", "gateway", 256),
    Measurement("spread_256_off", "off", 256, skus=SKUS),
    Measurement("spread_64_on", "on", 64, skus=SKUS),
    Measurement("spread_64_off", "off", 64, skus=SKUS),
    Measurement("carts_64_on", "on", 64, skus=SKUS, lines=3),
    Measurement("carts_64_off", "off", 64, skus=SKUS, lines=3),
    Measurement("carts_256_on", "on", 256, skus=SKUS, lines=3),
    Measurement("carts_256_off", "off", 256, skus=SKUS, lines=3),
    Measurement("hot_1000_on", "on", 1_000),
    Measurement("hot_1000_gateway", "gateway", 1_000),
    Measurement("alone_on", "on", 1, slices=5),
    Measurement("alone_off", "off", 1, slices=5),
    # So many connections that one of them is free whenever an order is due.
    Measurement("half_of_peak_on", "on", 1_000, of_peak=0.5),
)
PEAK_OF = ("hot_64_on", "hot_256_on")


def select(patterns: Iterable[str]) -> list[Measurement]:
    """The measurements whose name matches one of ``patterns`` (as file names do), in the order of the plan; without
    those that need OpenTelemetry if that is not installed.

    Without one there is no peak to take a share of, so what shows the peak comes with those that need it.
    """
    wanted = list(patterns)
    names = {one.name for one in MEASUREMENTS if any(fnmatchcase(one.name, pattern) for pattern in wanted)}
    if any(one.of_peak for one in MEASUREMENTS if one.name in names) and not names & set(PEAK_OF):
        names.add(PEAK_OF[-1])
    return [one for one in MEASUREMENTS if one.name in names and (one.server != TRACED or tracing.is_installed())]


def turns(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """A round: which measurements come one after the other, those that are cut into slices in turns."""
    blocks: list[list[Measurement]] = []
    for one in measurements:
        if blocks and one.slices > 1 and blocks[-1][-1].slices == one.slices:
            blocks[-1].append(one)
        else:
            blocks.append([one])
    return blocks
