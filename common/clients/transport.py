"""The one place where the client library does I/O: an HTTP request goes out, a reply or an error comes back."""

import math
import ssl
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp
from yarl import URL

from common.errors import DeadlineExceeded, ServiceError, ServiceUnavailable


class NoInstance(Exception):
    """There was nobody to send a request to."""


class Request(NamedTuple):
    """What goes out."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: bytes | None = None

    @property
    def name(self) -> str:
        """For people to read. Not the whole URL, which may carry a password or a query."""
        return f"{self.method} {self.url.path} at {self.url.host}:{self.url.port}"


class Reply(NamedTuple):
    """What came back, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Sends requests through one aiohttp session, made when it is first needed, with ``tls`` or the system's."""

    def __init__(
        self, session: aiohttp.ClientSession | None, connections_max: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self._session = session
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._owns_session = session is None
        self._connections_max = connections_max
        self._is_closed = False
        # For TLS, where it is not the host of the URL; and for a connection, where it has less time than the reply.
        self._server_hostname: str | None = None
        self._connect_timeout_s: float | None = None

    @property
    def has_others(self) -> bool:
        """Whether a failed request says nothing about the next one, as that can go to an instance that is well."""
        return False

    async def request(self, request: Request, timeout_s: float) -> Reply:
        """Send a request and read the whole reply.

        Raises DeadlineExceeded after ``timeout_s`` seconds and ServiceUnavailable when the reply is missing or
        breaks off. Either way the server may have done what it was asked; only :func:`was_sent` can rule it out.
        """
        try:
            async with self._open_session().request(
                request.method,
                request.url,
                headers=request.headers,
                data=request.body,
                ssl=self._tls,
                server_hostname=self._server_hostname,
                # aiohttp rounds timeouts above 5 seconds up to whole ticks of its clock unless told otherwise.
                timeout=aiohttp.ClientTimeout(
                    total=timeout_s, sock_connect=self._connect_timeout_s, ceil_threshold=math.inf
                ),
                # A redirected POST would arrive as a GET, and its reply would be taken for the POST's.
                allow_redirects=False,
                raise_for_status=False,
            ) as response:
                return Reply(response.status, response.headers, await response.read())
        except aiohttp.ConnectionTimeoutError as error:
            raise ServiceUnavailable(f"{request.name} was not sent: there was no connection in time.") from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"{request.name} was not answered within {timeout_s:.3g} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServiceUnavailable(f"{request.name} was not answered: {_reason(error)}.") from error

    async def close(self) -> None:
        self._is_closed = True
        if self._owns_session and self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise RuntimeError("The client is closed.")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._new_connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            # aiohttp sends a GET whose connection broke once more by itself, past our budget and breaker, and has no
            # public switch for it. In a session that the caller brought it stays on; it never repeats POST or PATCH.
            self._session._retry_connection = False
        return self._session

    def _new_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self._connections_max)


def was_sent(error: ServiceError) -> bool:
    """Whether the request may have reached the server: ``False`` only when there was no connection at all."""
    return not isinstance(error.__cause__, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | NoInstance)


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not valid"
    if isinstance(error, aiohttp.ClientSSLError):
        return "there is no TLS between us"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "the connection failed"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the reply broke off"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the reply is not HTTP"
    return "the connection was lost"
