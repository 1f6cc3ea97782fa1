"""What the commands about the stack print: plain lines for people, or one JSON document with ``--json``."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click

Say = Callable[[str], None]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def say(line: str) -> None:
    """Print a line at once. A reader that went away is no reason to bring the stack down."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def say_aside(line: str) -> None:
    """Print a line to standard error, where it cannot spoil the document on standard output."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def show(document: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print ``document`` if JSON was asked for, else ``lines``."""
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))
    else:
        for line in lines:
            click.echo(line)
