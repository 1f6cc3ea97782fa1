"""The order service's settings; variables start with ``ORDER_``."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from common.settings import NAMESERVER, BaseUrl, Nameserver, ServiceSettings, lease_in_doubt


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="ORDER_")

    port: int = Field(8081, ge=0, le=65535, description="port to listen on")

    inventory_url: BaseUrl = Field("http://127.0.0.1:8082", description="base URL of the inventory service")
    payment_url: BaseUrl = Field("http://127.0.0.1:8083", description="base URL of the payment service")
    nameserver: Nameserver | None = Field(None, description=NAMESERVER)
    auth_client_id: str | None = Field(
        None, description="the name under which this service gets tokens from the issuer for its calls to the others"
    )
    auth_client_secret: SecretStr | None = Field(None, description="the secret that goes with it")
    call_timeout_s: float = Field(
        5.0, gt=0, description="seconds for a call to another service, retries included, until it counts as unknown"
    )
    checkout_timeout_s: float = Field(
        10.0,
        gt=0,
        description="a checkout that is still going on is answered with 202 after nine tenths of these seconds, "
        "or of its caller's time",
    )

    purchases_in_flight_max: int = Field(
        2,
        ge=1,
        description="groups of orders that are purchased at once, of up to `ORDER_MAX_BATCH` orders each, not counting "
        "those that wait for something slow",
    )

    lease_s: float = Field(
        12.0,
        gt=0,
        description="seconds after which recovery takes over an order whose driver is silent; "
        "longer than two calls to other services",
    )
    recovery_interval_s: float = Field(1.0, gt=0, description="seconds between two looks for expired leases")
    retry_first_s: float = Field(
        0.5, gt=0, description="seconds until an unknown outcome is asked for; doubles with each attempt"
    )
    retry_most_s: float = Field(30.0, gt=0, description="seconds between two attempts at the most")
    crash_point: str | None = Field(None, description="for tests: the named point at which the process kills itself")

    calls = ("inventory_url", "payment_url")

    @property
    def doubts(self) -> list[str]:
        found = super().doubts + lease_in_doubt(self, "lease_s", "call_timeout_s")
        if not self.is_open and self.tls_ca is None and self.auth_client_id is None:
            found.append(
                "ORDER_AUTH_CLIENT_ID and ORDER_AUTH_CLIENT_SECRET are not set: where the others ask who calls, "
                "no order gets its stock."
            )
        return found

    @property
    def contradictions(self) -> dict[str, str]:
        client = {"auth_client_id": self.auth_client_id, "auth_client_secret": self.auth_client_secret}
        if not any(client.values()):
            return super().contradictions
        needed = client | {"auth_issuer": self.auth_issuer}
        missing = [name for name, value in needed.items() if not value]
        return super().contradictions | dict.fromkeys(missing, "is needed, too, to get tokens for this service")
