"""How a database is named: one URL."""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from common.certificates import client_context

_TLS_FILES = ("ssl_ca", "ssl_cert", "ssl_key")


def parse_database_url(url: str, tls: ssl.SSLContext | None = None) -> dict[str, Any]:
    """``mysql://user:password@host:port/name?unix_socket=/path`` as arguments of ``aiomysql.connect``.

    ``ssl_ca``, and with it ``ssl_cert`` and ``ssl_key``, are files (PEM) with which connections are encrypted and both
    ends verified; else ``tls`` is, if it is given. A socket of this machine needs neither.

    Raises ValueError with a sentence that does not contain the password.
    """
    quoting = "quote / : @ ? # [ ] in its password (%2F %3A %40 %3F %23 %5B %5D)"
    # The messages of urllib have what stands in the wrong place, which is a piece of a password that was not quoted.
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"must {quoting}") from None
    if parts.scheme not in ("mysql", "mariadb") or not parts.path.strip("/"):
        raise ValueError("must look like mysql://user:password@host:port/name")
    try:
        port = parts.port or 3306
    except ValueError:
        raise ValueError(f"must have a number for a port, and {quoting}") from None
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        # What is taken for a host, a port or an option may be a piece of the password.
        raise ValueError(f"must {quoting}")
    options = parse_qs(parts.query, keep_blank_values=True)
    unknown = options.keys() - {"unix_socket", *_TLS_FILES}
    if unknown:
        raise ValueError(f"has unknown options: {', '.join(sorted(unknown))}")
    address: dict[str, Any] = {
        "host": parts.hostname or "127.0.0.1",
        "port": port,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "db": parts.path.strip("/"),
    }
    if "unix_socket" in options:
        return address | {"unix_socket": options["unix_socket"][0]}
    own = {name: options[name][0] for name in _TLS_FILES if name in options}
    encrypted = _tls_of(own) if own else tls
    return address | ({} if encrypted is None else {"ssl": encrypted})


def masked_database_url(url: str) -> str:
    """A URL that can be parsed, without its password."""
    parts = urlsplit(url)
    before, has_user, address = parts.netloc.rpartition("@")
    user, has_password, _ = before.partition(":")
    return parts._replace(netloc=f"{user}{':***' if has_password else ''}{has_user}{address}").geturl()


def _tls_of(files: dict[str, str]) -> ssl.SSLContext:
    if "ssl_ca" not in files or ("ssl_cert" in files) != ("ssl_key" in files):
        raise ValueError("must name ssl_ca, and ssl_cert and ssl_key together")
    pair = (Path(files["ssl_cert"]), Path(files["ssl_key"])) if "ssl_cert" in files else None
    try:
        return client_context(Path(files["ssl_ca"]), pair)
    except OSError as error:
        raise ValueError(f"names files that cannot be used: {error.strerror or error}") from None
