"""One seed from beginning to end: stock up, let buyers and faults loose, heal, wait, and judge."""

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp

from common.contracts.orders import FINAL
from common.errors import DatabaseUnavailable
from tests.faults.harness import checks
from tests.faults.harness.buyers import Counters, open_counters, shopping
from tests.faults.harness.cluster import Cluster
from tests.faults.harness.evidence import Evidence, collect, unfinished_s
from tests.faults.harness.faults import FAULTS, Fault
from tests.faults.harness.history import History
from tests.faults.harness.nemesis import NONE, Nemesis
from tests.faults.harness.plan import Plan
from tests.faults.harness.result import Result
from tests.faults.harness.settle import (
    ENDS_WITHIN_S,
    everybody_is_served,
    everything_ends,
    nothing_is_held,
)
from tests.faults.harness.shop import PROFILES, Shop
from tests.faults.harness.violation import Violation
from vv.audit import audit, open_books
from vv.databases import SERVICES, embedded
from vv.errors import Unavailable

# Between two audits of the running stack.
_AUDITS_EVERY_S = 6.0
Say = Callable[[str], None]


def run(plan: Plan, folder: Path, say: Say = lambda _: None) -> Result:
    """Play a plan in ``folder``, which must be empty; ``say`` is told what it is at. Blocks."""
    began = time.monotonic()
    say("starting")
    cluster = Cluster(folder / "cluster", plan.seed)
    with cluster.running():
        result = asyncio.run(Run(plan, cluster, folder, say).play())
    result.took_s = time.monotonic() - began
    return result


class Run:
    def __init__(self, plan: Plan, cluster: Cluster, folder: Path, say: Say) -> None:
        self._plan = plan
        self._cluster = cluster
        self._say = say
        self._shop = Shop(plan.seed, PROFILES[plan.profile])
        self._probe = f"PROBE{plan.seed}"
        self._stocked = {**self._shop.stock, self._probe: 1_000}
        self._history = History(folder / "history.jsonl")
        self._nemesis = Nemesis(cluster, faults_of(plan, cluster), plan.seed)
        self._urls = embedded(cluster.mariadb).migration_urls
        self._result = Result(plan.seed, plan.command)
        self._began = time.monotonic()

    async def play(self) -> Result:
        await self._stock_up()
        cluster = self._cluster
        with contextlib.closing(self._history):
            async with open_counters(
                self._history, cluster.order_url, cluster.inventory_url, cluster.payment_url
            ) as counters:
                last_fault_at = await self._suffer(counters)
                self._say("settling")
                await self._settle(counters, last_fault_at)
            self._say("judging")
            await self._judge(last_fault_at)
        return self._result

    async def _stock_up(self) -> None:
        async with aiohttp.ClientSession(self._cluster.direct_url("inventory"), raise_for_status=True) as session:
            for sku, quantity in self._stocked.items():
                body = {"product_id": "harness", "sku": sku, "quantity": quantity}
                async with session.post("/inventory/create", json=body):
                    pass

    async def _suffer(self, counters: Counters) -> float:
        """Buyers, faults and audits at the same time; when the last fault was healed, in seconds since the epoch."""
        self._say("suffering")
        plan = self._plan
        auditing = asyncio.create_task(self._audit_now_and_then())
        async with shopping(counters, self._shop, plan.seed, plan.buyers, plan.per_second):
            self._blame(await self._nemesis.rage(plan.seconds))
            try:
                await self._cluster.heal()
            except AssertionError as error:
                self._blame([Violation("the_stack_comes_back", "heal", str(error), "")])
            healed_at = time.time()
        auditing.cancel()
        await asyncio.gather(auditing, return_exceptions=True)
        return healed_at

    async def _audit_now_and_then(self) -> None:
        """While traffic flows and faults happen the audit finds nothing either."""
        while True:
            await asyncio.sleep(_AUDITS_EVERY_S)
            with contextlib.suppress(DatabaseUnavailable, Unavailable):
                self._blame(await self._audit("while traffic flows: ", quiesced=False))
                self._result.audits += 1

    async def _settle(self, counters: Counters, last_fault_at: float) -> None:
        self._result.settled_s, stuck = await everything_ends(self._cluster.database_urls, last_fault_at)
        self._blame(stuck)
        self._blame(await everybody_is_served(counters, self._probe, random.Random(f"{self._plan.seed}:guests")))
        await everything_ends(self._cluster.database_urls, time.time())
        services = {name: self._cluster.direct_url(name) for name in SERVICES}
        self._blame(await nothing_is_held(services, self._urls["order"]))

    async def _judge(self, last_fault_at: float) -> None:
        operations = self._history.operations
        seen = await asyncio.to_thread(collect, self._urls, operations, self._stocked, self._cluster.cancelled)
        self._blame(checks.violations(seen))
        self._blame(await self._audit(quiesced=True))
        result = self._result
        result.orders = len(seen.orders)
        result.orders_by_status = Counter(str(order.status) for order in seen.orders.values())
        result.outcomes = Counter(f"{operation.kind} {operation.outcome}" for operation in operations)
        result.unknown = checks.unknown_resolved(seen)
        result.inflicted = Counter(stroke.fault for stroke in self._nemesis.strokes)
        result.hit, result.hits = self._nemesis.hit, self._nemesis.hits
        spans = [took for order in seen.orders.values() for took in unfinished_s(order, FINAL)]
        result.unfinished_s = [took for took in spans if self._is_true(took)]
        result.recovered_s = [took for took in recovered_s(seen, last_fault_at) if self._is_true(took)]

    def _is_true(self, took_s: float) -> bool:
        """Whether it is no hour that the database's clock was set forward or back by."""
        return 0 <= took_s <= time.monotonic() - self._began

    async def _audit(self, when: str = "", *, quiesced: bool) -> list[Violation]:
        gateway_url = self._cluster.gateway_url
        # Faults may keep everybody from taking up what is left for as long as they go on.
        overdue_s = ENDS_WITHIN_S if quiesced else math.inf
        async with open_books(self._urls, gateway_url=gateway_url, overdue_s=overdue_s) as books:
            report = await audit(books, quiesced=quiesced)
        return [Violation(one.invariant, one.subject, when + one.problem, str(one.facts)) for one in report.violations]

    def _blame(self, found: list[Violation]) -> None:
        self._result.violations += found


def faults_of(plan: Plan, cluster: Cluster) -> list[Fault]:
    """The faults of a plan that this machine can have."""
    if plan.faults == NONE:
        return []
    return [FAULTS[name] for name in plan.faults or FAULTS if FAULTS[name].why_not(cluster) is None]


def recovered_s(seen: Evidence, last_fault_at: float) -> list[float]:
    """How long after the last fault each order that was unfinished then became final."""
    found = []
    for order in seen.orders.values():
        before = [event for event in order.events if event["created_at"].timestamp() <= last_fault_at]
        after = [event for event in order.events if event["created_at"].timestamp() > last_fault_at]
        end = next((event for event in after if event["status"] in FINAL), None)
        if end is not None and before and before[-1]["status"] not in FINAL:
            found.append(end["created_at"].timestamp() - last_fault_at)
    return found
