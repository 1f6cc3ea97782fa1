"""Looks SRV records up, with the addresses of their hosts. Needs dnspython, the extra ``discovery``."""

import asyncio
import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from common.base_url import NO_RESOLVER, can_look_up, read_nameserver
from common.clients.instances import Endpoint, Record

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.name
    import dns.resolver

# For a lookup as a whole, and for a nameserver until it is asked again, or the next one.
_LIFETIME_S = 3.0
_TRY_S = 1.0
# What fits into a packet everywhere (DNS Flag Day 2020); longer answers come over TCP, up to some thousand records.
_PACKET_BYTES = 1232
# Names in DNS may have any bytes; these end up in URLs and headers.
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")


class LookupFailed(Exception):
    """No nameserver had an answer: which instances there are is unknown."""


class Answer(NamedTuple):
    """The instances of a service; good for ``ttl_s`` seconds. None at all is an answer, too."""

    records: tuple[Record, ...]
    ttl_s: float


class Resolver(Protocol):
    """Something that knows the records of a service."""

    async def look_up(self, name: str) -> Answer:
        """Raises LookupFailed."""
        ...


class _Host(NamedTuple):
    """The addresses of a host, always in the same order, though nameservers turn them around."""

    addresses: tuple[str, ...]
    ttl_s: float


class DnsResolver:
    """Asks ``nameserver`` (``127.0.0.1:8600``), or the system's. Names are complete: no search list is used.

    Raises ValueError, and ModuleNotFoundError where dnspython is not installed.
    """

    def __init__(self, nameserver: str | None = None) -> None:
        if not can_look_up():
            raise ModuleNotFoundError(f"base_url {NO_RESOLVER}")
        # It takes a tenth of a second: better here than in the middle of a request.
        import dns.asyncresolver  # noqa: F401

        self._nameserver = None if nameserver is None else read_nameserver(nameserver)

    async def look_up(self, name: str) -> Answer:
        """The SRV records of a name. Raises LookupFailed."""
        import dns.exception

        try:
            return await self._look_up(name)
        except (dns.exception.DNSException, OSError) as error:
            raise LookupFailed(str(error)) from error

    async def _look_up(self, name: str) -> Answer:
        resolver = self._new_resolver()
        found = await _ask(resolver, name, "SRV")
        if found is None or found.rrset is None:
            return Answer((), 0.0)
        named = [(_text(row.target), row) for row in found.rrset]
        # A dot in place of a host says that there is no such service (RFC 2782).
        rows = [(host, row) for host, row in named if _HOST.fullmatch(host)]
        told = _told_along(found)
        missing = sorted({host for host, _ in rows} - told.keys())
        told |= zip(missing, await asyncio.gather(*(_addresses(resolver, host) for host in missing)), strict=True)
        records = tuple(
            Record(Endpoint(host, row.port, told[host].addresses), row.priority, row.weight)
            for host, row in rows
            if told[host].addresses
        )
        return Answer(records, min([found.rrset.ttl, *(told[host].ttl_s for host, _ in rows)]))

    def _new_resolver(self) -> "dns.asyncresolver.Resolver":
        """A new one for each lookup: /etc/resolv.conf may have changed, and costs a tenth of a millisecond."""
        import dns.asyncresolver

        resolver = dns.asyncresolver.Resolver(configure=self._nameserver is None)
        if self._nameserver is not None:
            address, resolver.port = self._nameserver
            resolver.nameservers = [address]
        resolver.lifetime = _LIFETIME_S
        resolver.timeout = _TRY_S
        resolver.use_edns(0, 0, _PACKET_BYTES)
        return resolver


async def _ask(resolver: "dns.asyncresolver.Resolver", name: str, kind: str) -> "dns.resolver.Answer | None":
    """None when there is no such name, and an answer without ``rrset`` when the name has no such record."""
    import dns.resolver

    try:
        return await resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
    except dns.resolver.NXDOMAIN:
        return None


async def _addresses(resolver: "dns.asyncresolver.Resolver", host: str) -> _Host:
    answers = await asyncio.gather(_ask(resolver, host, "A"), _ask(resolver, host, "AAAA"))
    sets = [answer.rrset for answer in answers if answer is not None and answer.rrset is not None]
    addresses = sorted(row.address for rows in sets for row in rows)
    return _Host(tuple(addresses), min((rows.ttl for rows in sets), default=0.0))


def _told_along(answer: "dns.resolver.Answer") -> dict[str, _Host]:
    """The addresses that came with an answer, which most servers send to save us a question each."""
    import dns.rdatatype

    found: dict[str, _Host] = {}
    for rows in answer.response.additional:
        if rows.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            before = found.get(host := _text(rows.name), _Host((), rows.ttl))
            addresses = sorted([*before.addresses, *(row.address for row in rows)])
            found[host] = _Host(tuple(addresses), min(before.ttl_s, rows.ttl))
    return found


def _text(name: "dns.name.Name") -> str:
    return name.to_text(omit_final_dot=True).lower()
