"""What a base URL may look like, and which certificate it asks for."""

import importlib.util
import re

import pytest

from common import base_url
from common.base_url import SrvUrl, check_base_url, check_nameserver, read_nameserver, read_srv_url
from common.clients import AsyncOrderClient, OrderClient


@pytest.mark.parametrize(
    ("text", "scheme", "record", "identity"),
    [
        ("srv+http://_inventory._tcp.shop.local", "http", "_inventory._tcp.shop.local", "inventory"),
        ("srv+https://_Inventory._tcp.Shop.local./api/", "https", "_inventory._tcp.shop.local", "inventory"),
        # Consul.
        ("srv+https://_payment._tcp.service.consul", "https", "_payment._tcp.service.consul", "payment"),
        # Kubernetes, with a port named after the service, and one named after the protocol.
        (
            "srv+https://_inventory._tcp.inventory.shop.svc.cluster.local",
            "https",
            "_inventory._tcp.inventory.shop.svc.cluster.local",
            "inventory",
        ),
        (
            "srv+https://_https._tcp.inventory.shop.svc.cluster.local",
            "https",
            "_https._tcp.inventory.shop.svc.cluster.local",
            "inventory.shop.svc.cluster.local",
        ),
        ("srv+https://_http._tcp.pay.example.com", "https", "_http._tcp.pay.example.com", "pay.example.com"),
    ],
)
def test_an_srv_url(text: str, scheme: str, record: str, identity: str) -> None:
    """Scheme, record, and the name that a certificate must have: from the URL alone, never from an answer of DNS."""
    assert read_srv_url(text) == SrvUrl(scheme, record, identity)
    assert check_base_url(text) == text


@pytest.mark.parametrize("text", ["http://h", "https://h:8082/a/b", "http://[::1]:80", "http://10.0.0.1/"])
def test_a_plain_url(text: str) -> None:
    """An address is what it was."""
    assert read_srv_url(text) is None
    assert check_base_url(text) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("srv+http://_inventory._tcp.shop.local:8082", "must not have a port: the SRV record has it"),
        ("srv+http://inventory.shop.local", "must name an SRV record"),
        ("srv+http://_inventory._udp.shop.local", "must name an SRV record"),
        ("srv+http://_inventory._tcp", "must name an SRV record"),
        ("srv+http://_inventory._tcp.shop..local", "must name an SRV record"),
        ("srv+http://_in ventory._tcp.shop.local", "must look like"),
        ("srv+http://_inventory._tcp." + ".".join(["a" * 60] * 5), "must name an SRV record"),
        ("srv+ftp://_inventory._tcp.shop.local", "must look like"),
        ("srv://_inventory._tcp.shop.local", "must look like"),
        ("srv+http://ann:secret@_inventory._tcp.shop.local", "must look like"),
        ("srv+http://_inventory._tcp.shop.local?a=b", "must look like"),
        ("http://ann:secret@h", "must look like"),
        ("http://h:80\n", "must look like"),
        ("inventory", "must look like"),
    ],
)
def test_a_mistake_is_a_sentence(text: str, problem: str) -> None:
    """It says what to do, and repeats nothing: there may be a password in it."""
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}") as caught:
        check_base_url(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["srv+http://_inventory._tcp.shop.local:80", "srv+http://inventory", "srv://_a._tcp.b", "shop"]
)
def test_a_client_refuses_the_same_mistakes(text: str) -> None:
    """At once, and not with the first call."""
    with pytest.raises(ValueError, match=r"^base_url must"):
        AsyncOrderClient(text)


def test_without_dnspython(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL with srv+ says what to install; all others do without."""
    monkeypatch.setattr(base_url, "find_spec", lambda name: None if name == "dns" else importlib.util.find_spec(name))
    with pytest.raises(ValueError, match=r"needs dnspython .*vv-ecommerce\[discovery\]"):
        check_base_url("srv+http://_inventory._tcp.shop.local")
    with pytest.raises(ModuleNotFoundError, match=r"^base_url needs dnspython .*vv-ecommerce\[discovery\]"):
        OrderClient("srv+http://_order._tcp.shop.local")
    assert check_base_url("http://h") == "http://h"
    OrderClient("http://h").close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.2", ("10.0.0.2", 53)),
        ("127.0.0.1:8600", ("127.0.0.1", 8600)),
        ("::1", ("::1", 53)),
        ("[::1]:8600", ("::1", 8600)),
    ],
)
def test_a_nameserver(text: str, address: tuple[str, int]) -> None:
    """An address, and a port if it is another one than usual."""
    assert read_nameserver(text) == address
    assert check_nameserver(text) == text


@pytest.mark.parametrize("text", ["", "consul", "consul:8600", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "1.2.3"])
def test_no_nameserver(text: str) -> None:
    """A name would need a nameserver itself."""
    with pytest.raises(ValueError, match=r"^must (look like 10\.0\.0\.2|have a port)"):
        check_nameserver(text)
