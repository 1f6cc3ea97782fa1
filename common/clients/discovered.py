"""The transport of a client whose service is found by an SRV record: each request goes to one of its instances."""

import socket
import ssl
import time

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from common.base_url import read_srv_url
from common.clients.discovery import Discovery
from common.clients.instances import Endpoint, Outcome
from common.clients.resolver import DnsResolver
from common.clients.transport import Reply, Request, Transport, was_sent
from common.errors import DeadlineExceeded, ServiceError

# An instance that cannot be connected to in this time is as good as gone. TLS included.
_CONNECT_S = 0.8
# Connections that a request may try to get, each to another instance.
_TRIED_MAX = 3
# Who gave an instance less time than this learns nothing about its health from a timeout.
_FAIR_S = 1.0


def open_transport(
    base_url: str,
    session: aiohttp.ClientSession | None,
    connections_max: int,
    tls: ssl.SSLContext | None = None,
    nameserver: str | None = None,
) -> Transport:
    """The transport for a base URL. Raises ValueError, and ModuleNotFoundError for one that needs dnspython.

    ``nameserver`` is asked for SRV records in place of the system's, such as ``127.0.0.1:8600``.
    """
    url = read_srv_url(base_url)
    if url is None:
        return Transport(session, connections_max, tls)
    discovery = Discovery(url.record, DnsResolver(nameserver))
    return DiscoveredTransport(discovery, url.scheme, url.identity, session, connections_max, tls)


class DiscoveredTransport(Transport):
    """Sends each request to an instance that ``discovery`` picks, and tells it how that went.

    What could not be sent, as there was no connection, goes to another instance at once. Whatever may have been sent
    is not repeated here. The certificates of all instances must be for ``identity``.
    """

    def __init__(
        self,
        discovery: Discovery,
        scheme: str,
        identity: str,
        session: aiohttp.ClientSession | None,
        connections_max: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(session, connections_max, tls)
        self._discovery = discovery
        self._scheme = scheme
        self._server_hostname = identity if scheme == "https" else None
        self._connect_timeout_s = _CONNECT_S

    @property
    def has_others(self) -> bool:
        return self._discovery.any_healthy()

    async def request(self, request: Request, timeout_s: float) -> Reply:
        """As :meth:`Transport.request`; also ServiceUnavailable when there is no instance."""
        deadline = time.monotonic() + timeout_s
        tried: list[Endpoint] = []
        failure: ServiceError | None = None
        while len(tried) < _TRIED_MAX:
            lease = await self._discovery.pick(tried, wait_s=deadline - time.monotonic())
            if lease is None:
                break
            # aiohttp takes 0 for no limit.
            left_s = max(deadline - time.monotonic(), 0.001)
            outcome = Outcome.UNKNOWN
            try:
                reply = await super().request(self._addressed(request, lease.endpoint), left_s)
            except ServiceError as error:
                outcome = _outcome(error, left_s)
                if outcome is not Outcome.REFUSED:
                    raise
                failure = error
                tried.append(lease.endpoint)
            else:
                outcome = Outcome.FAILED if reply.status >= 500 else Outcome.ANSWERED
                return reply
            finally:
                self._discovery.give_back(lease, outcome)
        assert failure is not None
        raise failure

    async def close(self) -> None:
        await super().close()
        await self._discovery.close()

    def _new_connector(self) -> aiohttp.TCPConnector:
        # Without aiohttp's cache, which would not hear of new addresses; ours are in memory anyway.
        resolver = _Addresses(self._discovery)
        return aiohttp.TCPConnector(limit=self._connections_max, resolver=resolver, use_dns_cache=False)

    def _addressed(self, request: Request, endpoint: Endpoint) -> Request:
        url = URL.build(
            scheme=self._scheme,
            host=endpoint.host,
            port=endpoint.port,
            path=request.url.raw_path,
            query_string=request.url.raw_query_string,
            encoded=True,
        )
        return request._replace(url=url)


class _Addresses(AbstractResolver):
    """Gives aiohttp the addresses that came with the SRV records."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = self._discovery.addresses(host, port)
        if not addresses:
            raise OSError(None, "DNS names it no more")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


def _outcome(error: ServiceError, timeout_s: float) -> Outcome:
    if not was_sent(error):
        return Outcome.REFUSED
    if isinstance(error, DeadlineExceeded) and timeout_s < _FAIR_S:
        return Outcome.UNKNOWN
    return Outcome.FAILED
