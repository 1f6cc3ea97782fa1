"""Variables that look like settings and are none: mistyped, most likely."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from pydantic_settings import BaseSettings, EnvSettingsSource

from common.settings_sources import SHARED, secrets_of

# What others read under the prefix of a service: the vv command, and the front door.
OTHERS_OF_A_SERVICE = ("URL", "MIGRATION_DATABASE_URL", "MIGRATION_DATABASE_URL_FILE", "UPSTREAM")
# What begins like a setting of all services, and is the business of some.
OF_SOME_SERVICES = ("AUTH_CLIENT_ID", "AUTH_CLIENT_SECRET", "AUTH_CLIENT_SECRET_FILE")
# What Kubernetes tells each container about a Service that is called like one of ours.
_SERVICE_LINK = re.compile(r"(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP)(_.*)?)")
# Variables of other programs begin with AUTH, too; one that does not go on like ours must be rather close to one.
_CLOSE_ENOUGH = 0.85
# With less, names have nothing in common but the service.
_NEAR = 0.7


def names_in_doubt(settings_class: type[BaseSettings]) -> list[str]:
    """A sentence for each variable of this process that begins like a setting of the service and is none."""
    prefix = settings_class.model_config.get("env_prefix", "").upper()
    known = names_of(settings_class)
    ignored = {f"{prefix}{name}" for name in OTHERS_OF_A_SERVICE}
    if not known.intersection(OF_SOME_SERVICES):
        ignored.update(OF_SOME_SERVICES)
    present = sorted(name.upper() for name in EnvSettingsSource(settings_class).env_vars)
    return [
        in_doubt(name, known)
        for name in present
        if name not in known | ignored and _begins_like_one(name, prefix, known)
    ]


def names_of(settings_class: type[BaseSettings]) -> set[str]:
    """The variables from which a service takes its settings."""
    prefix = settings_class.model_config.get("env_prefix", "").upper()
    own = {f"{prefix}{name}".upper() for name in settings_class.model_fields}
    shared = {name.upper() for name in settings_class.model_fields if name.startswith(SHARED)}
    return own | shared | {f"{prefix}{name}_FILE".upper() for name in secrets_of(settings_class)}


def in_doubt(name: str, known: Iterable[str]) -> str:
    """What is to be said of a variable that is none of those known."""
    longer = sorted((each for each in known if each.startswith(name)), key=len)
    nearest = longer[:1] or get_close_matches(name, sorted(known), n=1, cutoff=_NEAR)
    return f"{name}: no such setting{f'; did you mean {nearest[0]}?' if nearest else '.'}"


def _begins_like_one(name: str, prefix: str, known: Iterable[str]) -> bool:
    if name.startswith(prefix):
        return not _SERVICE_LINK.fullmatch(name.removeprefix(prefix))
    if name.startswith(tuple(f"{start.upper().rstrip('_')}_" for start in SHARED)):
        return True
    return name.startswith("AUTH") and bool(get_close_matches(name, known, n=1, cutoff=_CLOSE_ENOUGH))
