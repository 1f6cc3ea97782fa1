"""Where settings come from besides the service's own variables: files of secrets, and variables for all services."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource

# What the names of those settings begin with that may be set for all services at once.
SHARED = ("auth", "tls_", "trace_")

Kind = Literal["default", "variable", "file", "variable for all services"]


class SettingMistake(Exception):
    """A variable that is wrong before its value is known."""


@dataclass(frozen=True)
class Origin:
    """Where the value of a setting comes from.

    :param name: the variable, in capitals, or the file if its name may be shown; None for a default
    :param value: as it stands there; it may be secret
    """

    kind: Kind
    name: str | None = None
    value: Any = field(default=None, repr=False)


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
        shown = path if is_surely_a_path(path) else "(not shown, as it may be the secret itself; write the whole path)"
        raise SettingMistake(f"{variable}_FILE: the file {shown} cannot be read: {reason}") from None


def is_surely_a_path(text: str) -> bool:
    """Whether it may be shown: it is not the secret itself, put there by who took this variable for the other one."""
    path = Path(text)
    try:
        is_here = path.exists() or (path.parent != Path() and path.parent.is_dir())
    except (OSError, ValueError):
        is_here = False
    return text.isprintable() and (path.is_absolute() or is_here)


class FilesOfSecrets(EnvSettingsSource):
    """``ORDER_DATABASE_URL_FILE`` names the file that has what ``ORDER_DATABASE_URL`` would.

    In place of a secret that cannot be had comes the SettingMistake, which no setting takes.
    """

    def __call__(self) -> dict[str, Any]:
        environment = {name.upper(): value for name, value in self.env_vars.items()}
        found = {}
        for name in secrets_of(self.settings_cls):
            variable = f"{self.env_prefix}{name}".upper()
            if environment.get(f"{variable}_FILE"):
                found[name] = _or_mistake(environment, variable)
        return found


class SharedVariables(EnvSettingsSource):
    """``AUTH_ISSUER`` is ``ORDER_AUTH_ISSUER`` of all services; the latter counts where both are set."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, env_prefix="")

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if name.startswith(SHARED)}


def secrets_of(settings_class: type[BaseSettings]) -> list[str]:
    """The names of the settings that are secret."""
    return [
        name
        for name, info in settings_class.model_fields.items()
        if SecretStr in (info.annotation, *get_args(info.annotation))
    ]


def origins(settings_class: type[BaseSettings]) -> dict[str, Origin]:
    """Where this process's environment gives each setting of a service its value."""
    prefix = settings_class.model_config.get("env_prefix", "").upper()
    environment = EnvSettingsSource(settings_class).env_vars
    found: dict[str, Origin] = {name: Origin("default") for name in settings_class.model_fields}
    # What comes last counts.
    for name, value in SharedVariables(settings_class)().items():
        found[name] = Origin("variable for all services", name.upper(), value)
    for name, value in EnvSettingsSource(settings_class)().items():
        found[name] = Origin("variable", f"{prefix}{name}".upper(), value)
    for name, value in FilesOfSecrets(settings_class)().items():
        variable = f"{prefix}{name}_FILE".upper()
        path = str(environment[variable.lower()])
        found[name] = Origin("file", path if is_surely_a_path(path) else variable, value)
    return found


def _or_mistake(environment: Mapping[str, Any], variable: str) -> Any:
    try:
        return secret_in(environment, variable)
    except SettingMistake as error:
        return error
