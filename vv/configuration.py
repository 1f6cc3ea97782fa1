"""What the environment makes of the settings of each service, with nothing secret in it."""

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import SecretStr, TypeAdapter
from pydantic.fields import FieldInfo

import inventory_service.app
import inventory_service.settings
import order_service.app
import order_service.settings
import payment_service.app
import payment_service.settings
from common.database_url import masked_database_url
from common.settings import ServiceSettings, check_settings, variable_of
from common.settings_names import names_in_doubt
from common.settings_sources import Origin, origins, secrets_of

MASK = "***"
# What stands before the last @, but for a scheme; and a query, in which tokens travel.
_CREDENTIALS = re.compile(r"(?<=://).*(?=@)|^(?!.*://).*(?=@)|(?<=\?).*", re.DOTALL)
# A wrong value is there to be recognised, and not to be read to its end.
_SHOWN_MAX = 100


@dataclass(frozen=True)
class Program:
    """A service, as it can be put together."""

    settings: type[ServiceSettings]
    # Takes the settings above.
    make_app: Callable[[Any], web.Application]


PROGRAMS: Mapping[str, Program] = {
    "order": Program(order_service.settings.Settings, order_service.app.make_app),
    "inventory": Program(inventory_service.settings.Settings, inventory_service.app.make_app),
    "payment": Program(payment_service.settings.Settings, payment_service.app.make_app),
}


@dataclass(frozen=True)
class Setting:
    """A setting of a service.

    :param value: what the service makes of it; of what is secret a mask; None if there is none, or a wrong one
    :param given: a wrong value as it stands in the environment; None if it is secret
    :param default: as in the documentation: None for none, and for a setting without which the service does not start
    """

    variable: str
    value: str | int | float | None
    origin: Origin
    is_wrong: bool
    given: str | None
    default: str | int | float | None
    is_required: bool
    description: str

    @property
    def shown_value(self) -> str:
        """For people."""
        if self.is_wrong:
            if self.origin.kind == "default":
                return "(not set)"
            return "(wrong)" if self.given is None else f"{self.given} (wrong)"
        return "" if self.value is None else str(self.value)


@dataclass(frozen=True)
class Configuration:
    """The settings of a service; sentences on what keeps it from starting, and on what is allowed and seldom meant."""

    settings: list[Setting]
    mistakes: list[str]
    doubts: list[str]


def configuration_of(service: str) -> Configuration:
    """What ``python -m order_service`` would make of the environment of this process."""
    program = PROGRAMS[service]
    found, mistakes = check_settings(program.settings)
    if found is not None and not mistakes:
        mistakes = _refusal(program, found)
    doubts = names_in_doubt(program.settings) if found is None else found.doubts
    wrong = {mistake.partition(":")[0] for mistake in mistakes}
    return Configuration(_settings(program.settings, found, wrong), mistakes, doubts)


def default_of(field: FieldInfo) -> str | int | float | None:
    return None if field.is_required() else _plain(field.default)


def _settings(settings_class: type[ServiceSettings], found: ServiceSettings | None, wrong: set[str]) -> list[Setting]:
    secrets = secrets_of(settings_class)
    given = origins(settings_class)
    settings = []
    for name, field in settings_class.model_fields.items():
        variable = variable_of(settings_class, name)
        is_wrong = bool(wrong & {variable, f"{variable}_FILE"})
        value = None if is_wrong else _value_of(name, field, found, given[name])
        settings.append(
            Setting(
                variable,
                _masked(name, value) if name in secrets else _plain(value),
                given[name],
                is_wrong,
                _as_given(given[name]) if is_wrong and name not in secrets else None,
                default_of(field),
                field.is_required(),
                str(field.description),
            )
        )
    return settings


def _value_of(name: str, field: FieldInfo, found: ServiceSettings | None, given: Origin) -> object:
    if found is not None:
        return getattr(found, name)
    # Others are wrong, so that there is no whole; this one is not.
    assert field.annotation is not None
    adapter: TypeAdapter[object] = TypeAdapter(field.annotation)
    return field.default if given.kind == "default" else adapter.validate_python(given.value)


def _refusal(program: Program, settings: ServiceSettings) -> list[str]:
    """What a service says that refuses to be put together: its files cannot be used, say. Nothing is opened."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            program.make_app(settings)
    except SystemExit:
        return said.getvalue().splitlines()
    return []


def _masked(name: str, value: object) -> str | None:
    """Nothing of what is secret; of a database's URL everything but the password."""
    if not isinstance(value, SecretStr):
        return None
    return masked_database_url(value.get_secret_value()) if name == "database_url" else MASK


def _as_given(origin: Origin) -> str | None:
    """A wrong value, to be shown in a line; what may be a password in a URL is masked, wherever it ends."""
    if origin.kind == "default":
        return None
    text = _CREDENTIALS.sub(MASK, str(origin.value))
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def _plain(value: object) -> str | int | float | None:
    return value if value is None or isinstance(value, str | int | float) else str(value)
