"""Keys and certificates: a certification authority of one's own, what it issues, and how both lie in files."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from vv.folder import write_whole

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH

Host = str | IPv4Address | IPv6Address

_ORGANISATION = "VV-Ecommerce development"
# A clock that is a little behind must not refuse what was made a moment ago.
_BACKDATED = timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def read(cls, folder: Path, name: str) -> Self | None:
        """The pair in ``folder``; None when a file is missing or is none, or when they do not belong together."""
        certificate = read_certificate(folder / f"{name}.crt")
        try:
            key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
        except (OSError, ValueError, TypeError):
            return None
        if certificate is None or not isinstance(key, ec.EllipticCurvePrivateKey):
            return None
        return cls(certificate, key) if certificate.public_key() == key.public_key() else None

    def write(self, folder: Path, name: str) -> None:
        """Replace both files, one right after the other: a service that looks in between sees a pair that does not
        match, and looks again."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        certificate = self.certificate.public_bytes(serialization.Encoding.PEM)
        write_whole(folder / f"{name}.key", key.decode())
        write_whole(folder / f"{name}.crt", certificate.decode(), 0o644)


class Authority:
    """Issues certificates that whoever trusts ``pair.certificate`` believes."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    @classmethod
    def make(cls, valid: timedelta) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"{_ORGANISATION} CA")
        builder = _builder(name, name, key.public_key(), key.public_key())
        certificate = (
            _valid_from(builder, datetime.now(UTC) - _BACKDATED, valid)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(for_authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(Pair(certificate, key))

    def issue(
        self,
        name: str,
        hosts: Sequence[Host],
        *,
        valid: timedelta,
        start: datetime | None = None,
        usages: Sequence[ObjectIdentifier] = (SERVER, CLIENT),
    ) -> Pair:
        """A new key, and a certificate for it that bears ``hosts`` and does not outlive the authority's own."""
        key = ec.generate_private_key(ec.SECP256R1())
        own = self.pair.certificate
        start = start or datetime.now(UTC) - _BACKDATED
        valid = min(valid, own.not_valid_after_utc - start)
        builder = _builder(_name(name), own.subject, key.public_key(), self.pair.key.public_key())
        certificate = (
            _valid_from(builder, start, valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(for_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
            .sign(self.pair.key, hashes.SHA256())
        )
        return Pair(certificate, key)


def read_certificate(path: Path) -> x509.Certificate | None:
    """The certificate in a file; None when the file is missing or holds none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def hosts_of(certificate: x509.Certificate) -> list[Host]:
    """The names and addresses that a certificate bears."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = names.get_values_for_type(x509.IPAddress)
    return [
        *names.get_values_for_type(x509.DNSName),
        *(address for address in addresses if isinstance(address, IPv4Address | IPv6Address)),
    ]


def share_left(certificate: x509.Certificate) -> float:
    """How much of its life a certificate has left: 1.0 is all, below 0 is none."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (end - datetime.now(UTC)) / (end - start)


def _name(text: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, text),
        ]
    )


def _general_name(host: Host) -> x509.GeneralName:
    return x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, issuer_key: CertificatePublicKeyTypes
) -> x509.CertificateBuilder:
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(issuer_key, ec.EllipticCurvePublicKey)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _valid_from(builder: x509.CertificateBuilder, start: datetime, valid: timedelta) -> x509.CertificateBuilder:
    return builder.not_valid_before(start).not_valid_after(start + valid)


def _usage(*, for_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not for_authority,
        key_cert_sign=for_authority,
        crl_sign=for_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
