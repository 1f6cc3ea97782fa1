"""TLS between services: both ends show a certificate, and both follow their files when these are renewed."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cryptography import x509

from common.telemetry import log

_LOOK_EVERY_S = 1.0


class Certificates:
    """This service's certificate and key, and the CA whose certificates it believes; PEM files.

    ``server`` and ``client`` are the contexts for either end: TLS 1.3, and nobody without a certificate.
    ``expires_at`` is told, now and whenever the files are taken over, when the certificate expires (Unix time).
    Raises OSError (ssl.SSLError is one) when the files cannot be used.
    """

    def __init__(
        self, certificate: Path, key: Path, ca: Path, *, expires_at: Callable[[float], None] = lambda _: None
    ) -> None:
        self._pair = (certificate, key)
        self._expires_at = expires_at
        self._contexts: list[tuple[ssl.SSLContext, Path]] = []
        self.server = self._new(ssl.PROTOCOL_TLS_SERVER, ca)
        self.server.verify_mode = ssl.CERT_REQUIRED
        # With a ticket a certificate that has expired since would not be looked at again.
        self.server.num_tickets = 0
        self.client = self._new(ssl.PROTOCOL_TLS_CLIENT, ca)
        self._seen = self._state()
        self._tell_expiry()

    def client_believing(self, ca: Path) -> ssl.SSLContext:
        """A context for calling somebody whose certificate is of another CA. Raises OSError."""
        context = self._new(ssl.PROTOCOL_TLS_CLIENT, ca)
        self._seen = self._state()
        return context

    async def follow(self) -> NoReturn:
        """Take the files over whenever they have changed. What cannot be used is left alone until it can.

        Connections that are open stay as they are. A CA that is taken out of its file counts until the next start.
        """
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Take the files over if they have changed."""
        state = self._state()
        if state == self._seen:
            return
        try:
            # Certificate and key may not match yet: first where it does no harm.
            for _, ca in self._contexts:
                self._load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ca)
            for context, ca in self._contexts:
                self._load_into(context, ca)
        except Exception as error:
            # Whatever it is: who stopped looking would go on with what expires.
            log.warning("certificates_not_usable", problem=str(error))
        else:
            self._seen = state
            self._tell_expiry()
            log.info("certificates_taken_over")

    def _new(self, protocol: ssl._SSLMethod, ca: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._load_into(context, ca)
        self._contexts.append((context, ca))
        return context

    def _load_into(self, context: ssl.SSLContext, ca: Path) -> None:
        context.load_cert_chain(*self._pair)
        context.load_verify_locations(ca)

    def _tell_expiry(self) -> None:
        try:
            found = x509.load_pem_x509_certificates(self._pair[0].read_bytes())
        except (OSError, ValueError) as error:
            log.warning("certificate_expiry_unknown", problem=str(error))
            return
        # The file may also have certificates between this one and its CA; without any of them it is worth nothing.
        self._expires_at(min(one.not_valid_after_utc for one in found).timestamp())

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in (*self._pair, *(ca for _, ca in self._contexts))]


def client_context(ca: Path, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """A context for calling whoever ``ca`` vouches for, with a certificate and its key if one is wanted: TLS 1.3.

    Raises OSError (ssl.SSLError is one) when the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(ca)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What changes when a file does, also when it is a link that points elsewhere (as Kubernetes has them)."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
