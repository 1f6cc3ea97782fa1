"""What the settings of a service say about who may call it, and over which wire, put together."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from common.background import running
from common.certificates import Certificates, client_context
from common.guard import Guard
from common.issuer import Issuer
from common.settings import ServiceSettings, refuse_setting
from common.telemetry import Metrics
from common.tokens import Tokens


class Security:
    """``guard`` is None where there is no authentication, a context for TLS where connections are not encrypted."""

    def __init__(
        self, guard: Guard | None = None, issuer: Issuer | None = None, certificates: Certificates | None = None
    ) -> None:
        self.guard = guard
        self._issuer = issuer
        self._certificates = certificates

    @classmethod
    def from_settings(cls, settings: ServiceSettings, metrics: Metrics) -> "Security":
        """Ends the process when certificates are configured that cannot be used."""
        certificates = _certificates(settings, metrics)
        if settings.is_open:
            return cls(None, None, certificates)
        if settings.auth_issuer is None:
            return cls(Guard(None, by_certificate=True), None, certificates)
        issuer = Issuer(settings.auth_issuer)
        tokens = Tokens(issuer, audience=settings.auth_audience, skew_s=settings.auth_clock_skew_s)
        return cls(Guard(tokens, by_certificate=certificates is not None), issuer, certificates)

    @property
    def server_tls(self) -> ssl.SSLContext | None:
        """For the connections to this service."""
        return self._certificates.server if self._certificates is not None else None

    @property
    def client_tls(self) -> ssl.SSLContext | None:
        """For the connections that this service opens."""
        return self._certificates.client if self._certificates is not None else None

    def client_tls_believing(self, ca: Path) -> ssl.SSLContext:
        """As ``client_tls``, for calls to somebody whose certificate is of another CA. Raises OSError."""
        if self._certificates is None:
            return client_context(ca)
        return self._certificates.client_believing(ca)

    def why_not_ready(self) -> str | None:
        return None if self._issuer is None else self._issuer.why_not_ready()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Follow keys and certificates during a block."""
        async with AsyncExitStack() as stack:
            if self._issuer is not None:
                await stack.enter_async_context(self._issuer)
            if self._certificates is not None:
                await stack.enter_async_context(running(self._certificates.follow()))
            yield


def _certificates(settings: ServiceSettings, metrics: Metrics) -> Certificates | None:
    if settings.tls_certificate is None or settings.tls_key is None or settings.tls_ca is None:
        return None
    try:
        return Certificates(
            settings.tls_certificate, settings.tls_key, settings.tls_ca, expires_at=metrics.certificate_expiry().set
        )
    except OSError as error:
        refuse_setting(settings, "tls_certificate", f"cannot be used with its key and CA: {error.strerror or error}")
