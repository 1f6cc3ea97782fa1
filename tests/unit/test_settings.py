"""What a service makes of its environment, and what it refuses to start with."""

from pathlib import Path

import pytest

from common.settings import ServiceSettings, read_settings
from order_service.settings import Settings as OrderSettings
from payment_service.settings import Settings as PaymentSettings

URL = "mysql://order:letmein@db/order_db"
ISSUER = "https://id.example.com/realms/shop"
HTTPS = {"ORDER_INVENTORY_URL": "https://inventory:8082", "ORDER_PAYMENT_URL": "https://payment:8083"}
TLS = {"TLS_CERTIFICATE": "order.crt", "TLS_KEY": "order.key", "TLS_CA": "ca.crt"}


@pytest.fixture(autouse=True)
def _only_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDER_DATABASE_URL", URL)
    for name in ("AUTH", "AUTH_ISSUER", *TLS):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"ORDER_{name}", raising=False)


def read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> OrderSettings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return read_settings(OrderSettings)


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"ORDER_HOST": "0.0.0.0"}, "ORDER_HOST: 0.0.0.0 can be reached from other machines"),
        ({"ORDER_HOST": "::"}, "ORDER_HOST: :: can be reached"),
        ({"ORDER_HOST": "order"}, "ORDER_HOST: order can be reached"),
        ({"ORDER_HOST": "0.0.0.0", "ORDER_AUTH": "on"}, "ORDER_AUTH: is on, but nobody could prove an identity"),
        ({"AUTH": "on"}, "ORDER_AUTH: is on, but nobody could prove an identity"),
        ({"AUTH": "yes"}, "ORDER_AUTH: must be 'on' or 'off'"),
        ({"ORDER_PORT": "abc"}, "ORDER_PORT: must be a whole number\n"),
        ({"ORDER_PORT": "70000"}, "ORDER_PORT: must be at most 65535\n"),
        ({"ORDER_LEASE_S": "soon"}, "ORDER_LEASE_S: must be a number\n"),
        ({"ORDER_LEASE_S": "0"}, "ORDER_LEASE_S: must be more than 0\n"),
        ({"ORDER_INVENTORY_URL": "http://inventory:99999"}, "ORDER_INVENTORY_URL: must have a port between 1 and"),
        ({"AUTH_ISSUER": "https://[id"}, "ORDER_AUTH_ISSUER: must look like https://"),
        ({"AUTH_ISSUER": "https://id:port"}, "ORDER_AUTH_ISSUER: must look like https://"),
        ({"TRACE_ENDPOINT": "otel:4318"}, "ORDER_TRACE_ENDPOINT: must look like http://host"),
        ({"TRACE_ENDPOINT": "srv+http://_otlp._tcp.shop"}, "ORDER_TRACE_ENDPOINT: must begin with http:// or https://"),
        ({"TLS_CERTIFICATE": "x"}, "ORDER_TLS_KEY: is needed, too"),
        (TLS, "ORDER_INVENTORY_URL: must begin with https"),
        ({**TLS, **HTTPS, "ORDER_PAYMENT_URL": "http://payment:8083"}, "ORDER_PAYMENT_URL: must begin with https"),
        ({"ORDER_DATABASE_URL": f"{URL}?ssl_ca="}, "ORDER_DATABASE_URL: names files that cannot be used"),
        ({"TLS_KEY": "x", "TLS_CERTIFICATE": "x"}, "ORDER_TLS_CA: is needed, too"),
        ({"AUTH_ISSUER": "http://id.example.com"}, "ORDER_AUTH_ISSUER: must begin with https://"),
        ({"AUTH_ISSUER": "id.example.com"}, "ORDER_AUTH_ISSUER: must look like https://"),
        ({"AUTH_ISSUER": "https://ann:secret@id.example.com"}, "ORDER_AUTH_ISSUER: must look like https://"),
        ({"ORDER_AUTH_CLIENT_ID": "order"}, "ORDER_AUTH_CLIENT_SECRET: is needed, too"),
        ({"ORDER_INVENTORY_URL": "http://ann:secret@inventory"}, "ORDER_INVENTORY_URL: must look like http://host"),
        ({"ORDER_PAYMENT_URL": "srv+http://_p._tcp.shop:80"}, "ORDER_PAYMENT_URL: must not have a port"),
        ({"ORDER_NAMESERVER": "consul:8600"}, "ORDER_NAMESERVER: must look like 10.0.0.2 or 127.0.0.1:8600"),
        ({"ORDER_DATABASE_URL_FILE": "/run/secrets/url"}, "ORDER_DATABASE_URL: ORDER_DATABASE_URL_FILE is set, too"),
        (
            {"ORDER_DATABASE_URL": "", "ORDER_DATABASE_URL_FILE": "/gone"},
            "ORDER_DATABASE_URL_FILE: the file /gone cannot be read: No such file",
        ),
        ({"ORDER_DATABASE_URL": "mysql://ann:a/b@db/x"}, "ORDER_DATABASE_URL: must have a number for a port"),
    ],
)
def test_what_does_not_fit_ends_the_process(
    variables: dict[str, str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and a line that begins with the variable; no value that may be secret is in it."""
    with pytest.raises(SystemExit) as ended:
        read(monkeypatch, **variables)
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert complaint in printed
    assert "secret@" not in printed
    assert "letmein" not in printed


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"ORDER_HOST": "localhost"},
        {"ORDER_HOST": "127.1.2.3"},
        {"ORDER_HOST": "::1"},
        {"ORDER_HOST": "0.0.0.0", "AUTH": "off"},
        {"ORDER_HOST": "0.0.0.0", "ORDER_AUTH": "off", "AUTH": "on"},
        {"ORDER_HOST": "0.0.0.0", "AUTH": "off", "AUTH_ISSUER": ISSUER},
    ],
    ids=str,
)
def test_where_nobody_is_asked_who_he_is(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine only, or because it was said in so many words, which is in doubt at each start."""
    settings = read(monkeypatch, **variables)
    assert settings.is_open
    assert any("AUTH=off" in doubt for doubt in settings.doubts) == (settings.auth == "off")


@pytest.mark.parametrize(
    "variables",
    [
        {"AUTH_ISSUER": ISSUER},
        {"ORDER_AUTH_ISSUER": ISSUER, "AUTH": "on"},
        {"AUTH_ISSUER": "http://127.0.0.1:9000"},
        TLS | HTTPS,
        {**TLS, **HTTPS, "AUTH_ISSUER": ISSUER, "AUTH": ""},
    ],
    ids=str,
)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_where_everybody_is_asked(variables: dict[str, str], host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an issuer, with certificates, or with both, also on this machine."""
    assert not read(monkeypatch, ORDER_HOST=host, **variables).is_open


def test_a_variable_of_the_service_counts_more_than_one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTH_AUDIENCE is for all services, ORDER_AUTH_AUDIENCE for one; PORT and HOST of somebody else are nobody's."""
    settings = read(monkeypatch, AUTH_AUDIENCE="all", ORDER_AUTH_AUDIENCE="one", HOST="0.0.0.0", PORT="1")
    assert (settings.auth_audience, settings.host, settings.port) == ("one", "127.0.0.1", 8081)


def test_secrets_may_be_in_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """NAME_FILE names the file, as containers have their secrets; the line's end does not count."""
    for name, text in (("url", f"{URL}\n"), ("secret", "s3cret\r\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    settings = read(
        monkeypatch,
        ORDER_DATABASE_URL="",
        ORDER_DATABASE_URL_FILE=str(tmp_path / "url"),
        AUTH_ISSUER=ISSUER,
        ORDER_AUTH_CLIENT_ID="order-service",
        ORDER_AUTH_CLIENT_SECRET_FILE=str(tmp_path / "secret"),
    )
    assert settings.database_url.get_secret_value() == URL
    assert settings.auth_client_secret is not None
    assert settings.auth_client_secret.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(settings)
    assert "letmein" not in repr(settings)


@pytest.mark.parametrize("url", ["http://gateway.example.com", "http://10.0.0.1:8084"])
def test_the_token_of_the_gateway_is_not_sent_in_plain_text(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On this machine it may be, elsewhere everybody on the way could read it."""
    for name, value in {"DATABASE_URL": URL, "GATEWAY_TOKEN": "t0ken", "GATEWAY_URL": "http://127.0.0.1:8084"}.items():
        monkeypatch.setenv(f"PAYMENT_{name}", value)
    read_settings(PaymentSettings)
    monkeypatch.setenv("PAYMENT_GATEWAY_URL", url)
    with pytest.raises(SystemExit):
        read_settings(PaymentSettings)
    assert "PAYMENT_GATEWAY_URL: must begin with https" in capsys.readouterr().err


def test_a_service_without_credentials_is_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an issuer and no certificates, the order service needs tokens, too."""
    assert any("ORDER_AUTH_CLIENT_ID" in doubt for doubt in read(monkeypatch, AUTH_ISSUER=ISSUER).doubts)


@pytest.mark.parametrize("settings_class", [OrderSettings, PaymentSettings])
def test_what_is_secret_says_so(settings_class: type[ServiceSettings]) -> None:
    """A setting for a password, a token or a secret is a SecretStr, which no log and no error prints."""
    plain = [
        name
        for name, field in settings_class.model_fields.items()
        if any(word in name for word in ("secret", "password", "token", "database_url"))
        and "SecretStr" not in str(field.annotation)
    ]
    assert plain == []
