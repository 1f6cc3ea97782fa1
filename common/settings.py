"""Settings from environment variables, and nothing else: what every service needs."""

import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from common import oidc, tracing
from common.base_url import check_base_url, check_nameserver
from common.contracts.base import BATCH_MAX
from common.database_url import parse_database_url
from common.mistakes import in_words
from common.settings_names import names_in_doubt
from common.settings_sources import FilesOfSecrets, SettingMistake, SharedVariables

# How URLs begin behind which nothing is encrypted.
PLAIN = ("http:", "srv+http:")

S = TypeVar("S", bound="ServiceSettings")

# Where another server is, and who knows that.
BaseUrl = Annotated[str, AfterValidator(check_base_url)]
Nameserver = Annotated[str, AfterValidator(check_nameserver)]
NAMESERVER = (
    "nameserver that knows the SRV records of URLs with `srv+`, such as `127.0.0.1:8600`; the system's if not set"
)


class ServiceSettings(BaseSettings):
    """The knobs that the three services share. Variables carry the service's prefix: ``ORDER_PORT``; those of ``auth_``
    and ``tls_`` may go without it, for all services. What is secret may be in a file: ``ORDER_DATABASE_URL_FILE``."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, env_ignore_empty=True)

    database_url: SecretStr = Field(
        description="`mysql://user:password@host:port/name`, optionally `?unix_socket=/path`"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(ge=0, le=65535, description="port to listen on")
    workers: int = Field(
        1, ge=1, le=256, description="processes that share the port; pools, batches and limits are those of each"
    )
    auth: Literal["on", "off"] | None = Field(
        None,
        description="`off`: no authentication; `on`: refuse to start without an issuer or TLS files; "
        "unset: as `on` beyond loopback",
    )
    auth_issuer: str | None = Field(
        None, description="URL of the OpenID Connect issuer whose tokens are believed; there are no users if not set"
    )
    auth_audience: str = Field("vv-ecommerce", min_length=1, description="what the claim `aud` of a token must name")
    auth_clock_skew_s: float = Field(
        30.0, ge=0, le=300, description="seconds by which the clocks of issuer and service may differ"
    )
    tls_certificate: Path | None = Field(
        None, description="file with the certificate of this service, and those between it and its CA; PEM"
    )
    tls_key: Path | None = Field(None, description="file with the key of that certificate")
    tls_ca: Path | None = Field(
        None, description="file with the CA of all services; with these three every connection needs certificates"
    )
    trace_endpoint: BaseUrl | None = Field(
        None, description="base URL of a collector of traces (OTLP over HTTP); no traces are made if not set"
    )
    trace_sample_ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of new traces that are recorded; of a trace that a caller began, the caller decides",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least level to log")

    pool_size_max: int = Field(16, ge=1, le=1024, description="database connections at the most, of each worker")
    pool_wait_s: float = Field(
        10.0, gt=0, description="seconds a request waits for a database connection before it gets 503"
    )
    lock_wait_s: int = Field(
        1, ge=1, description="seconds a statement waits for a row lock before its transaction is run again"
    )
    transaction_timeout_s: float = Field(
        15.0,
        gt=0,
        description="seconds after which a transaction that hangs is abandoned with its connection",
    )

    max_batch: int = Field(
        256, ge=1, le=BATCH_MAX, description="items that share a transaction or call at the most; 1 switches that off"
    )
    batches_in_flight_max: int = Field(1, ge=1, description="batches of one kind on their way at once")
    batch_gather_s: float = Field(
        0.02, ge=0, description="seconds that items gather for another batch while others are on their way"
    )
    batch_queue_max: int = Field(
        10_000, ge=1, description="items waiting for a batch of one kind; one more gets 503 and `Retry-After`"
    )

    requests_in_flight_max: int = Field(
        1_200, ge=1, description="requests answered at once; one more gets 503 and `Retry-After`"
    )
    drain_delay_s: float = Field(
        0.5, ge=0, description="seconds between a failing `/readyz` and closing the port after SIGTERM"
    )
    drain_timeout_s: float = Field(
        20.0,
        ge=0,
        description="seconds that running requests get to finish after SIGTERM, once they are here: "
        "for what is on its way there are 10 more",
    )

    # The settings that hold the URLs of services this one calls.
    calls: ClassVar[tuple[str, ...]] = ()

    @property
    def is_open(self) -> bool:
        """Whether there is no authentication."""
        return self.auth == "off" or (self.auth_issuer is None and self.tls_ca is None)

    @property
    def doubts(self) -> list[str]:
        """What is allowed, and seldom meant: a sentence each."""
        is_off = ["AUTH=off: everybody who reaches this port may do everything."] if self.auth == "off" else []
        return is_off + names_in_doubt(type(self))

    @property
    def contradictions(self) -> dict[str, str]:
        """Settings that do not go together: what is wrong with which of them."""
        found: dict[str, str] = {}
        tls = {name: getattr(self, name) for name in ("tls_certificate", "tls_key", "tls_ca")}
        if any(tls.values()):
            found |= dict.fromkeys(
                (name for name in tls if not tls[name]), "is needed, too, where one of the TLS files is set"
            )
        plain = [name for name in self.calls if str(getattr(self, name) or "").startswith(PLAIN)]
        if self.tls_ca is not None:
            found |= dict.fromkeys(plain, "must begin with https, as the TLS files are set")
        if self.trace_endpoint is not None and not tracing.is_installed():
            found["trace_endpoint"] = (
                "OpenTelemetry is not installed; make extras installs it, or pip with the extra vv-ecommerce[otel]"
            )
        if self.is_open and self.auth != "off":
            how = "set AUTH_ISSUER, or TLS_CERTIFICATE, TLS_KEY and TLS_CA"
            if self.auth == "on":
                found["auth"] = f"is on, but nobody could prove an identity; {how}"
            elif not oidc.is_loopback(self.host):
                found["host"] = (
                    f"{self.host} can be reached from other machines, and there is no authentication; {how}; "
                    "or AUTH=off, if whoever reaches it may do everything"
                )
        return found

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What comes first counts."""
        return init_settings, FilesOfSecrets(settings_cls), env_settings, SharedVariables(settings_cls)

    @field_validator("auth_issuer")
    @classmethod
    def _can_be_believed(cls, url: str | None) -> str | None:
        return None if url is None else oidc.check_url(url)

    @field_validator("trace_endpoint")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith("http"):
            raise ValueError("must begin with http:// or https://; a collector is not looked up in DNS SRV records")
        return url

    @field_validator("database_url")
    @classmethod
    def _can_be_read(cls, url: SecretStr) -> SecretStr:
        parse_database_url(url.get_secret_value())
        return url


def lease_in_doubt(settings: ServiceSettings, lease: str, timeout: str) -> list[str]:
    """A doubt, if a driver that waits for two calls as long as they may take has lost its lease by then."""
    lease_s, timeout_s = getattr(settings, lease), getattr(settings, timeout)
    if lease_s > 2 * timeout_s:
        return []
    variables = [variable_of(type(settings), name) for name in (lease, timeout)]
    doubt = (
        f"{variables[0]} ({lease_s:g}) is not longer than two times {variables[1]} ({timeout_s:g}): recovery "
        "takes over what is slow while its driver is still at work, and both do the same; raise one or lower the other."
    )
    return [doubt]


def check_settings(settings_class: type[S], **given: Any) -> tuple[S | None, list[str]]:
    """A service's settings, if they can be read at all, and what is wrong with them: a sentence for each mistake.

    Each begins with the variable, and has no value that may be secret. What is ``given`` takes precedence over its
    variable.
    """
    try:
        settings = settings_class(**given)
    except ValidationError as error:
        return None, [_sentence(settings_class, mistake) for mistake in error.errors(include_url=False)]
    wrong = settings.contradictions
    return settings, [f"{variable_of(settings_class, name)}: {problem}" for name, problem in wrong.items()]


def read_settings(settings_class: type[S], **given: Any) -> S:
    """Read a service's settings, or end the process with one line for each variable that is wrong."""
    settings, mistakes = check_settings(settings_class, **given)
    for mistake in mistakes:
        print(mistake, file=sys.stderr)  # noqa: T201
    if settings is None or mistakes:
        raise SystemExit(2)
    return settings


def variable_of(settings_class: type[ServiceSettings], name: str) -> str:
    """The environment variable of a setting."""
    return f"{settings_class.model_config.get('env_prefix', '')}{name}".upper()


def refuse_setting(settings: ServiceSettings, field: str, problem: str) -> NoReturn:
    """End the process as :func:`read_settings` does, over a value that only turned out to be wrong when it was used."""
    print(f"{variable_of(type(settings), field)}: {problem}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)


def refuse_port(settings: ServiceSettings, error: OSError) -> NoReturn:
    """End the process because it cannot listen on its address."""
    refuse_setting(settings, "port", f"{settings.host}:{settings.port} cannot be used: {error.strerror}")


def _sentence(settings_class: type[ServiceSettings], mistake: ErrorDetails) -> str:
    if isinstance(mistake["input"], SettingMistake):
        return str(mistake["input"])
    problem = "is not set" if mistake["type"] == "missing" else in_words(mistake)
    return f"{variable_of(settings_class, '_'.join(str(part) for part in mistake['loc']))}: {problem}"
