"""``vv config``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from vv.configuration import PROGRAMS, Configuration, Setting, configuration_of
from vv.configuration_example import example, stray_names
from vv.output import json_option, show

_REFUSED = 2


@click.command("config")
@click.option(
    "--service",
    "services",
    type=click.Choice(list(PROGRAMS)),
    multiple=True,
    help="Only this one; may be repeated.  [default: all three]",
)
@click.option("--example", "as_example", is_flag=True, help="Print .env.example instead: every variable there is.")
@json_option
@click.pass_context
def config_command(context: click.Context, services: Sequence[str], as_example: bool, as_json: bool) -> None:
    """Show what the environment makes of the settings of each service, and what is wrong with it.

    For each setting its value, where that comes from, and what it means; then what keeps a service from starting, in
    the words in which it would say so, and what is in doubt, such as a variable that is mistyped. Of what is secret a
    mask is shown; wrong values of other settings are shown as they are. Nothing is started or connected to. `vv up`
    gives its services their databases, addresses and ports.

    Exit code: 0 all would start, 2 a service would refuse to, or wrong usage.
    """
    commands = context.find_root().command
    assert isinstance(commands, click.Group)
    if as_example:
        if services or as_json:
            raise click.UsageError("--example goes with no other option.")
        click.echo(example(commands), nl=False)
        return
    found = {service: configuration_of(service) for service in services or PROGRAMS}
    mistakes = _each_once(each.mistakes for each in found.values())
    doubts = _each_once([*(each.doubts for each in found.values()), stray_names(commands)])
    document = {
        "services": {service: _document(each) for service, each in found.items()},
        "mistakes": mistakes,
        "doubts": doubts,
    }
    show(document, _lines(found, mistakes, doubts), as_json=as_json)
    if mistakes:
        context.exit(_REFUSED)


def _each_once(groups: Iterator[list[str]] | Sequence[list[str]]) -> list[str]:
    """Variables for all services would be spoken of by each of them."""
    return list(dict.fromkeys(sentence for group in groups for sentence in group))


def _document(found: Configuration) -> dict[str, Any]:
    return {
        "settings": [_setting_document(each) for each in found.settings],
        "mistakes": found.mistakes,
        "doubts": found.doubts,
    }


def _setting_document(setting: Setting) -> dict[str, Any]:
    said = asdict(setting)
    # As it stands there it may be secret.
    del said["origin"]["value"]
    return said


def _lines(found: Mapping[str, Configuration], mistakes: Sequence[str], doubts: Sequence[str]) -> Iterator[str]:
    for service, each in found.items():
        yield f"{service} service"
        cells = [(one.variable, one.shown_value, _origin(one), one.description) for one in each.settings]
        widths = [max(len(row[column]) for row in cells) for column in range(3)]
        for row in cells:
            yield "  " + "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]])
        yield ""
    yield from _listed("Wrong:", mistakes)
    yield from _listed("In doubt:", doubts)
    databases = all("DATABASE_URL: is not set" in mistake for mistake in mistakes)
    if not mistakes:
        yield "The services would start with these settings."
    elif databases:
        yield "A service alone would refuse to start; vv up brings databases of its own."
    else:
        yield "A service would refuse to start."


def _origin(setting: Setting) -> str:
    if setting.origin.kind == "file":
        return f"file {setting.origin.name}"
    return str(setting.origin.name) if setting.origin.kind == "variable for all services" else setting.origin.kind


def _listed(title: str, sentences: Sequence[str]) -> list[str]:
    return [title, *(f"  {sentence}" for sentence in sentences), ""] if sentences else []
