"""Certificates for development: an authority of one's own in a folder, and a certificate for each who uses TLS."""

import fcntl
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import click

from common.certificates import client_context
from vv.authority import CLIENT, SERVER, Authority, Host, Pair, hosts_of, is_issued_by, read_certificate, share_left
from vv.errors import Unavailable
from vv.folder import make_private

CA = "ca"
# May call everything, and serves nothing.
OPERATOR = "operator"
# The front door (nginx), whose users have tokens. The payment gateway has a certificate of its own.
FRONT_DOOR = "gateway"
# Asks the services for their metrics, which everybody may who has a certificate.
PROMETHEUS = "prometheus"
# Reaches the databases, and nobody else.
MIGRATE = "migrate"
NAMES = ("order", "inventory", "payment", FRONT_DOOR, OPERATOR, PROMETHEUS, "payment-gateway", "database", MIGRATE)
DAYS = 365

CLIENTS = (OPERATOR, PROMETHEUS, MIGRATE)
_CA_VALID = timedelta(days=3650)
# Made anew when no more than this is left of its life: time enough for everybody to come by and take the new one.
_SHARE_LEFT_MIN = 1 / 3
_LOCAL: tuple[Host, ...] = ("localhost", IPv4Address("127.0.0.1"), IPv6Address("::1"))
_DNS_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


def ensure(folder: Path, hosts: Sequence[str] = (), *, days: int = DAYS, renew: bool = False) -> list[str]:
    """Make what is missing, about to expire or lacks a wanted host, and give the names of what was made. Blocks.

    Afterwards there are ``ca.crt``, ``ca.key``, and NAME.crt and NAME.key for each of ``NAMES``. A certificate that is
    replaced hands its hosts on to the next one.

    :param hosts: further DNS names and addresses under which the servers are called
    :param days: how long new certificates are valid
    :param renew: make all certificates anew, under the same authority

    Raises Unavailable, click.UsageError (a host that cannot be one).
    """
    wanted = [_as_host(host) for host in hosts]
    make_private(folder)
    try:
        with _locked(folder):
            return _ensure(folder, wanted, timedelta(days=days), renew)
    except OSError as error:
        raise Unavailable(f"The certificates in {folder} cannot be made: {error.strerror}.") from error


def files_of(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Certificate, key and authority of one of ``NAMES``, as files."""
    return folder / f"{name}.crt", folder / f"{name}.key", folder / f"{CA}.crt"


def operator_tls(folder: Path) -> ssl.SSLContext:
    """For calls as the operator to whoever has a certificate from ``folder``. Raises Unavailable."""
    return tls_of(folder, OPERATOR)


def tls_of(folder: Path, name: str) -> ssl.SSLContext:
    """As :func:`operator_tls`, with the certificate of ``name``."""
    certificate, key, ca = files_of(folder, name)
    try:
        return client_context(ca, (certificate, key))
    except OSError as error:
        raise Unavailable(f"The certificate {name}.crt in {folder} cannot be used ({error.strerror}).") from error


def _ensure(folder: Path, hosts: Sequence[Host], valid: timedelta, renew: bool) -> list[str]:
    ca, made = read_certificate(folder / f"{CA}.crt"), []
    if ca is None or share_left(ca) < _SHARE_LEFT_MIN:
        authority = Authority.make(_CA_VALID)
        authority.pair.write(folder, CA)
        ca, made = authority.pair.certificate, [CA]
    for name in NAMES:
        own_hosts = _hosts(name, hosts)
        found = Pair.read(folder, name)
        if found is not None and is_issued_by(found.certificate, ca):
            before = hosts_of(found.certificate)
            if not renew and set(own_hosts) <= set(before) and share_left(found.certificate) >= _SHARE_LEFT_MIN:
                continue
            own_hosts = list(dict.fromkeys([*own_hosts, *before]))
        usages = [CLIENT] if name in CLIENTS else [SERVER, CLIENT]
        _authority(folder).issue(name, own_hosts, valid=valid, usages=usages).write(folder, name)
        made.append(name)
    return made


def _hosts(name: str, further: Sequence[Host]) -> list[Host]:
    if name in CLIENTS:
        return [name]
    return list(dict.fromkeys([name, *_LOCAL, *further]))


def _authority(folder: Path) -> Authority:
    pair = Pair.read(folder, CA)
    if pair is None:
        raise Unavailable(
            f"{folder / CA}.key is not there, or is not the key of {CA}.crt: no certificate can be made without it. "
            f"Put it back, or delete {folder / CA}.crt to have everything made anew."
        )
    return Authority(pair)


def _as_host(text: str) -> Host:
    try:
        return ip_address(text)
    except ValueError:
        pass
    name = text.lower().removesuffix(".")
    if name in NAMES:
        # The names say who somebody is: with it, every certificate would be taken for that one's.
        raise click.UsageError(
            f"The host {name} cannot be given: the certificate of {name} bears it, and no other may."
        )
    if not _DNS_NAME.fullmatch(name):
        raise click.UsageError(f"{text!r} is neither a DNS name nor an IP address.")
    return name


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody else makes certificates in this folder meanwhile: they would come from two authorities."""
    with (folder / "certs.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
