"""The inventory service's settings; variables start with ``INVENTORY_``."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.settings import ServiceSettings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="INVENTORY_")

    port: int = Field(8082, ge=0, le=65535, description="port to listen on")
