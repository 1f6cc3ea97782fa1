"""The payment service's settings; variables start with ``PAYMENT_``."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict
from yarl import URL

from common.oidc import is_loopback
from common.settings import NAMESERVER, PLAIN, BaseUrl, Nameserver, ServiceSettings, lease_in_doubt


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="PAYMENT_")

    port: int = Field(8083, ge=0, le=65535, description="port to listen on")

    gateway_url: BaseUrl | None = Field(
        None, description="base URL of the payment gateway, such as `vv gateway`; a sandbox if not set"
    )
    nameserver: Nameserver | None = Field(None, description=NAMESERVER)
    gateway_token: SecretStr | None = Field(
        None, description="token to show to that gateway (`Authorization: Bearer …`)"
    )
    gateway_ca: Path | None = Field(
        None, description="file with the CA of that gateway, where it is not `PAYMENT_TLS_CA`; PEM"
    )
    gateway_connections_max: int = Field(
        256, ge=1, le=4096, description="calls to that gateway at once, of each worker; the others wait their turn"
    )
    gateway_timeout_s: float = Field(
        8.0, gt=0, description="seconds after which the outcome of a call to the gateway counts as unknown"
    )
    first_wait_s: float = Field(1.0, gt=0, description="seconds that a batch of charges waits for its first outcome")
    straggler_wait_s: float = Field(
        0.1, ge=0, description="seconds that a batch of charges waits for the others once the first is done"
    )
    sandbox_latency_s: float = Field(0.0, ge=0, description="seconds that the sandbox gateway takes for a call")
    sandbox_slow_s: float = Field(3.0, ge=0, description="seconds that it takes longer for `tok_slow`")

    lease_s: float = Field(
        20.0,
        gt=0,
        description="seconds after which recovery takes over a payment whose driver is silent; "
        "longer than two calls to the gateway",
    )
    recovery_interval_s: float = Field(1.0, gt=0, description="seconds between two looks for expired leases")
    retry_first_s: float = Field(
        0.5, gt=0, description="seconds until an unknown outcome is asked for; doubles with each attempt"
    )
    retry_most_s: float = Field(30.0, gt=0, description="seconds between two attempts at the most")
    charge_not_found_max: int = Field(
        3,
        ge=1,
        le=1000,
        description="answers 'no such charge' from the gateway after which the charge's key is cancelled",
    )
    crash_point: str | None = Field(None, description="for tests: the named point at which the process kills itself")

    calls = ("gateway_url",)

    @property
    def contradictions(self) -> dict[str, str]:
        host = URL(self.gateway_url).host if self.gateway_url and self.gateway_url.startswith(PLAIN) else None
        if self.gateway_token is None or host is None or is_loopback(host):
            return super().contradictions
        return super().contradictions | {
            "gateway_url": "must begin with https, or anybody on the way could read the token"
        }

    @property
    def doubts(self) -> list[str]:
        return super().doubts + lease_in_doubt(self, "lease_s", "gateway_timeout_s")
