"""Where settings come from besides the service's own variables: files of secrets, and variables for all services."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource

_SHARED = ("auth", "tls_", "trace_")


class SettingMistake(Exception):
    """A variable that is wrong before its value is known."""


def secret_in(environment: Mapping[str, Any], variable: str) -> str | None:
    """The secret that a variable has, or the file that ``VARIABLE_FILE`` names.

    Raises SettingMistake when both are set, or when the file cannot be read.
    """
    path = environment.get(f"{variable}_FILE")
    if not path:
        return environment.get(variable)
    if environment.get(variable):
        raise SettingMistake(f"{variable}: {variable}_FILE is set, too; one of them is enough")
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        # Without its name, which is the secret itself if somebody took this variable for the other one.
        raise SettingMistake(f"{variable}_FILE: the file cannot be read: {reason}") from None


class FilesOfSecrets(EnvSettingsSource):
    """``ORDER_DATABASE_URL_FILE`` names the file that has what ``ORDER_DATABASE_URL`` would."""

    def __call__(self) -> dict[str, Any]:
        environment = {name.upper(): value for name, value in self.env_vars.items()}
        secrets = [name for name, field in self.settings_cls.model_fields.items() if _is_secret(field.annotation)]
        found = {name: secret_in(environment, f"{self.env_prefix}{name}".upper()) for name in secrets}
        return {name: value for name, value in found.items() if value is not None}


class SharedVariables(EnvSettingsSource):
    """``AUTH_ISSUER`` is ``ORDER_AUTH_ISSUER`` of all services; the latter counts where both are set."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, env_prefix="")

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if name.startswith(_SHARED)}


def _is_secret(annotation: Any) -> bool:
    return SecretStr in (annotation, *get_args(annotation))
