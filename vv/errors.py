"""Why a command ends without having done what was asked; the exit code is part of the interface."""

import click


class Refused(click.ClickException):
    """A definite no: refused, not found, an invariant violated."""

    exit_code = 1


class Unavailable(click.ClickException):
    """It could not be tried, or its outcome is unknown: something that is needed is not there."""

    exit_code = 3
