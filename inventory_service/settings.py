"""The inventory service's settings; variables start with ``INVENTORY_``."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.settings import ServiceSettings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="INVENTORY_")

    port: int = Field(8082, ge=0, le=65535, description="port to listen on")

    drift_check_interval_s: float = Field(
        10.0, ge=0, description="seconds between two rounds of the light audit of the ledger; 0 switches it off"
    )
    drift_check_skus: int = Field(50, ge=1, le=1000, description="SKUs that it looks at in each round")
