"""Base URLs: a service is found at an address, or by the DNS SRV record that names its instances (RFC 2782)."""

import re
from importlib.util import find_spec
from ipaddress import ip_address
from typing import NamedTuple

NO_RESOLVER = "needs dnspython for a URL with srv+; install vv-ecommerce with its extra: vv-ecommerce[discovery]"
_MUST_LOOK = (
    "must look like http://host:port, optionally with a path; "
    "or like srv+http://_inventory._tcp.shop.local, which names a DNS SRV record"
)
_PLAIN = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s/?#:@]+)(:(?P<port>[0-9]{1,5}))?(/[^\s?#]*)?")
_SRV = re.compile(r"srv\+(https?)://([^\s/?#:@]+)(:[^\s/?#@]*)?(/[^\s?#]*)?")
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_RECORD = re.compile(rf"_(?P<service>{_LABEL})\._tcp\.(?P<domain>{_LABEL}(\.{_LABEL})*)")
# Names of Kubernetes ports, above all: they say how to talk, and not with whom.
_PROTOCOLS = ("http", "https")
_NAMESERVER = re.compile(r"(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")
_DNS_PORT = 53
_PORT_END = 65_536
_PORT_BOUNDS = "must have a port between 1 and 65535"


class SrvUrl(NamedTuple):
    """``srv+SCHEME://RECORD``, whose instances have certificates for ``identity``.

    DNS can be forged, so the hosts in its answers prove nothing: callers want a certificate for what they have been
    configured with (RFC 6125, section 6.2.1). That is the service's name, as our certificates have it, or, where the
    record has only a protocol in its place, the domain behind it.
    """

    scheme: str
    record: str
    identity: str


def read_srv_url(text: str) -> SrvUrl | None:
    """What a base URL with ``srv+`` says; None for any other. Raises ValueError."""
    if not text.startswith("srv+"):
        return None
    url = _SRV.fullmatch(text)
    if url is None:
        raise ValueError(_MUST_LOOK)
    if url[3] is not None:
        raise ValueError("must not have a port: the SRV record has it")
    name = url[2].lower().removesuffix(".")
    record = _RECORD.fullmatch(name)
    if record is None or len(name) > 253:
        raise ValueError("must name an SRV record: _SERVICE._tcp.DOMAIN, such as srv+http://_inventory._tcp.shop.local")
    service, domain = record["service"], record["domain"]
    return SrvUrl(url[1], name, domain if service in _PROTOCOLS else service)


def check_base_url(text: str) -> str:
    """A base URL as it is. Raises ValueError, also for one that nobody here can look up."""
    if read_srv_url(text) is None:
        url = _PLAIN.fullmatch(text)
        if url is None:
            raise ValueError(_MUST_LOOK)
        if url["port"] and not 0 < int(url["port"]) < _PORT_END:
            raise ValueError(_PORT_BOUNDS)
    elif not can_look_up():
        raise ValueError(NO_RESOLVER)
    return text


def can_look_up() -> bool:
    """Whether the library that reads SRV records is installed."""
    return find_spec("dns") is not None and find_spec("dns.asyncresolver") is not None


def read_nameserver(text: str) -> tuple[str, int]:
    """Address and port of a nameserver: ``10.0.0.2``, ``127.0.0.1:8600``, ``[::1]:8600``. Raises ValueError."""
    # An IPv6 address may stand there alone, without brackets.
    match = _NAMESERVER.fullmatch(text)
    host, port = (match["v6"] or match["v4"], int(match["port"])) if match else (text, _DNS_PORT)
    try:
        address = str(ip_address(host))
    except ValueError:
        raise ValueError(
            "must look like 10.0.0.2 or 127.0.0.1:8600: an IP address, and a port if it is not 53"
        ) from None
    if not 0 < port < _PORT_END:
        raise ValueError(_PORT_BOUNDS)
    return address, port


def check_nameserver(text: str) -> str:
    """The address of a nameserver as it is. Raises ValueError."""
    read_nameserver(text)
    return text
