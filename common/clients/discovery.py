"""Keeps what is known about the instances of a service up to date with DNS."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from common.clients.instances import Endpoint, Instances, Lease, Outcome
from common.clients.resolver import LookupFailed, Resolver
from common.clients.transport import NoInstance
from common.errors import ServiceUnavailable

log = logging.getLogger(__name__)

# However short or long the TTL: DNS is not asked more often than this, and a new instance need not wait longer.
_TTL_MIN_S = 1.0
_TTL_MAX_S = 30.0
# An answer may be used for so long after its time, while the next one is on its way: under load nobody waits for DNS.
_GRACE_S = 1.0
# Who has to wait for DNS does so no longer than this: then the last answer must do.
_WAIT_S = 1.0


class Discovery:
    """The instances behind an SRV record. It belongs to the event loop of its first call.

    DNS is asked when somebody wants an instance and the last answer is older than its TTL; there is no task in the
    background. While DNS does not answer, its last answer counts.
    """

    def __init__(
        self,
        record: str,
        resolver: Resolver,
        *,
        instances: Instances | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self._resolver = resolver
        self._instances = instances or Instances(clock=clock)
        self._clock = clock
        self._lookup: asyncio.Task[None] | None = None
        self._asked_at = self._due = -1e9
        self._has_answer = False
        # Why the last lookup failed, if it did.
        self._trouble: str | None = None

    def any_healthy(self) -> bool:
        """Whether there is an instance that has not failed since it was last heard of."""
        return self._instances.any_healthy()

    async def pick(self, tried: Collection[Endpoint] = (), *, wait_s: float = _WAIT_S) -> Lease | None:
        """An instance for a request that could not be sent to those that were ``tried``; None if there is none else.

        For DNS it waits no longer than ``wait_s``. Raises ServiceUnavailable when no instance is known at all.
        """
        if self._clock() >= self._due:
            await self._refresh(wait_s)
        lease = self._instances.pick(tried)
        if lease is None and not tried:
            reason = self._trouble if not self._has_answer else "DNS names no instance of it"
            raise ServiceUnavailable(
                f"The service {self._record} cannot be reached: {reason or 'DNS has not answered yet'}."
            ) from NoInstance()
        return lease

    def give_back(self, lease: Lease, outcome: Outcome) -> None:
        """The request is over."""
        if self._instances.give_back(lease, outcome):
            host, port, _ = lease.endpoint
            log.warning("%s: %s:%d is left alone for a moment (%s)", self._record, host, port, outcome.name.lower())
        if outcome is Outcome.REFUSED:
            # It may be gone for good, and DNS know so already.
            self._due = min(self._due, self._asked_at + _TTL_MIN_S)

    def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """Where a host of an SRV record is; empty if DNS names it no more."""
        found = (one.addresses for one in self._instances.endpoints if (one.host, one.port) == (host, port))
        return next(found, ())

    async def close(self) -> None:
        """Wait for no answer any more."""
        if self._lookup is not None:
            self._lookup.cancel()
            await asyncio.wait([self._lookup])

    async def _refresh(self, wait_s: float) -> None:
        if self._lookup is None or self._lookup.done():
            self._asked_at = self._clock()
            self._lookup = asyncio.create_task(self._look_up())
        if self._has_answer and (self._trouble or self._clock() < self._due + _GRACE_S):
            return
        await asyncio.wait([self._lookup], timeout=min(wait_s, _WAIT_S))

    async def _look_up(self) -> None:
        try:
            answer = await self._resolver.look_up(self._record)
        except LookupFailed as error:
            if self._trouble is None:
                log.warning("%s: DNS has no answer, and its last one counts: %s", self._record, error)
            self._trouble = f"DNS has no answer ({error})"
            self._due = self._clock() + _TTL_MIN_S
            return
        before = set(self._instances.endpoints)
        self._instances.update(answer.records)
        now = set(self._instances.endpoints)
        if now != before:
            log.info(
                "%s: %d instances, %d of them new, %d gone",
                self._record,
                len(now),
                len(now - before),
                len(before - now),
            )
        self._has_answer, self._trouble = True, None
        self._due = self._clock() + min(max(answer.ttl_s, _TTL_MIN_S), _TTL_MAX_S)
