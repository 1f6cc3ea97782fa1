"""Every variable that is read, as ``.env.example`` lists them."""

import contextlib
import os
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import click

from common.settings import ServiceSettings
from common.settings_names import in_doubt
from common.settings_sources import SHARED
from vv import front_door
from vv.configuration import PROGRAMS, default_of
from vv.errors import Unavailable
from vv.mariadb_program import PROGRAM_VARIABLE

_HEAD = """\
# Every variable that the services, the vv command, compose.yaml and the front door read, with its default.
# Made by `vv config --example`; `vv config` shows what your environment makes of them.
#
# Copy it to .env, take the # away where you want another value (in '' if it has blanks, & or #), and load it:
# set -a; . ./.env; set +a
# A secret may be in a file instead, whose name is in the same variable with _FILE at its end.
"""
_WIDTH = 118
# What vv tells its own processes.
_OWN = ("VV_STARTED_FOR",)


@dataclass(frozen=True)
class Variable:
    """A variable; its default is as one would write it, and empty where there is none."""

    name: str
    default: str
    description: str


# What vv takes from the environment alone.
WITHOUT_OPTION = (
    Variable(
        PROGRAM_VARIABLE, "", "server program of the private database; mariadbd, else mysqld of this machine if not set"
    ),
)
# What compose.yaml takes besides the settings.
COMPOSE = (
    Variable("VV_IMAGE", "vv-ecommerce:latest", "image of the services and the migrations"),
    Variable("VV_LOAD_IMAGE", "vv-ecommerce-load:latest", "image of the load tests"),
    Variable("VV_VERSION", "0.1.0", "version that an image which is built says it is"),
    Variable("VV_REVISION", "unknown", "commit that an image which is built says it is of"),
    Variable("FRONT_DOOR_PORT", "8443", "port of this machine on which the front door is reached"),
    Variable(
        "PAYMENT_GATEWAY_TOKEN_FILE",
        "",
        "/run/secrets/payment-gateway-token where deploy/make-secrets has found a file payment-gateway-token",
    ),
    Variable(
        "SERVICE_CPUS", "1", "processors that each service may use: as many as ORDER_WORKERS, if it is more than 1"
    ),
    Variable("DATABASE_CPUS", "2", "processors that the database may use; no more than the machine has"),
)


def example(commands: click.Group) -> str:
    """The text of ``.env.example``. Raises Unavailable outside of a checkout."""
    fields = {service: _fields(service) for service in PROGRAMS}
    shared = [name for name in ServiceSettings.model_fields if name.startswith(SHARED)]
    for_all = [replace(fields["order"][name], name=name.upper()) for name in shared]
    groups: list[tuple[str, Iterable[Variable]]] = [
        ("All services; with ORDER_, INVENTORY_ or PAYMENT_ in front, one of them", for_all)
    ]
    for service, found in fields.items():
        groups.append((f"The {service} service", [each for name, each in found.items() if name not in shared]))
    groups.append(("The vv command", [*_of_commands(commands), *WITHOUT_OPTION, *_of_migrations()]))
    groups.append(("compose.yaml, which reads .env by itself", COMPOSE))
    front_door_text = f"# --- The front door: deploy/gateway/nginx.conf.template\n\n{_front_door()}"
    return "\n".join([_HEAD, *(_group(title, found) for title, found in groups), front_door_text])


def stray_names(commands: click.Group) -> list[str]:
    """A sentence for each variable of this process that begins like one of vv or of the front door and is none."""
    known = {each.name for each in (*_of_commands(commands), *WITHOUT_OPTION, *COMPOSE)}
    prefixes = ["VV_"]
    # The image of the services has no front door.
    with contextlib.suppress(Unavailable):
        known |= front_door.variables()
        prefixes.append("FRONT_DOOR_")
    present = sorted(name for name in os.environ if name.startswith(tuple(prefixes)))
    return [in_doubt(name, known) for name in present if name not in known and name not in _OWN]


def _fields(service: str) -> dict[str, Variable]:
    """The settings of a service, by their names."""
    found = {}
    for name, field in PROGRAMS[service].settings.model_fields.items():
        default = default_of(field)
        description = f"{field.description}{' (required)' if field.is_required() else ''}"
        variable = f"{service}_{name}".upper()
        found[name] = Variable(variable, "" if default is None else str(default), description)
    return found


def _of_commands(commands: click.Group) -> list[Variable]:
    """The variables that commands take in place of options, but for settings of services."""
    settings = {each.name for service in PROGRAMS for each in _fields(service).values()}
    found: dict[str, Variable] = {}
    for option in _options(commands):
        name = option.envvar
        if isinstance(name, str) and name not in settings:
            default = option.default if isinstance(option.default, str | int) else ""
            found.setdefault(name, Variable(name, str(default), str(option.help)))
    return list(found.values())


def _options(command: click.Command) -> Iterator[click.Option]:
    yield from (parameter for parameter in command.params if isinstance(parameter, click.Option))
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from _options(each)


def _of_migrations() -> Iterator[Variable]:
    for prefix in map(str.upper, PROGRAMS):
        description = f"account that migrates the database; that of {prefix}_DATABASE_URL if not set"
        yield Variable(f"{prefix}_MIGRATION_DATABASE_URL", "", description)


def _front_door() -> str:
    """``deploy/gateway/defaults.env`` with its own comments, and what has no default."""
    lines = [f"#{line}" if "=" in line and not line.startswith("#") else line for line in front_door.default_lines()]
    required = sorted(front_door.variables() - front_door.defaults().keys())
    lines += ["", "# Required; `vv up --gateway` sets them.", *(f"#{name}=" for name in required)]
    return "\n".join(lines) + "\n"


def _group(title: str, variables: Iterable[Variable]) -> str:
    return "\n".join([f"# --- {title}", *(_lines(each) for each in variables)]) + "\n"


def _lines(variable: Variable) -> str:
    said = textwrap.wrap(variable.description, _WIDTH, break_on_hyphens=False, break_long_words=False)
    return "\n".join(["", *(f"# {line}" for line in said), f"#{variable.name}={variable.default}"])
