"""TLS between services: both ends show a certificate, and both follow their files when these are renewed."""

import asyncio
import ssl
from pathlib import Path
from typing import NoReturn

from common.telemetry import log

_LOOK_EVERY_S = 1.0


class Certificates:
    """This service's certificate and key, and the CA whose certificates it believes; PEM files.

    ``server`` and ``client`` are the contexts for either end: TLS 1.3, and nobody without a certificate.
    Raises OSError (ssl.SSLError is one) when the files cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, ca: Path) -> None:
        self._files = (certificate, key, ca)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.verify_mode = ssl.CERT_REQUIRED
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for context in (self.server, self.client):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            self._load_into(context)
        self._seen = self._state()

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
            self._load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            for context in (self.server, self.client):
                self._load_into(context)
        except OSError as error:
            log.warning("certificates_not_usable", problem=str(error))
        else:
            self._seen = state
            log.info("certificates_taken_over")

    def _load_into(self, context: ssl.SSLContext) -> None:
        certificate, key, ca = self._files
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(ca)

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What changes when a file does, also when it is a link that points elsewhere (as Kubernetes has them)."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
