"""What the commands that talk to a service share: where it is, `--json`, and what an error means to a script."""

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Generic, Literal, NoReturn, TypeVar

import click
from click.core import ParameterSource

from common.clients import ServiceError
from common.clients.blocking import BlockingClient
from vv import certs, stack_file
from vv.commands_stack import data_dir_option
from vv.errors import Refused, Unavailable

C = TypeVar("C", bound=BlockingClient[Any])

# As a shell reports a process that SIGINT ended.
EXIT_INTERRUPTED = 130

EPILOG = """\b
Exit codes: 0 done; 1 refused (out of stock, declined, not found, invalid);
2 wrong usage; 3 unavailable, or the outcome is unknown; 130 interrupted.
Errors go to standard error: a sentence, with --json the problem document."""


class Api(Generic[C]):
    """One service, as the user's options describe it."""

    def __init__(
        self,
        client_class: type[C],
        url: str,
        *,
        as_json: bool,
        timeout_s: float,
        token: str | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._client_class = client_class
        self._url = url
        self._token = token
        self._tls = tls
        self._timeout_s = timeout_s
        self.as_json = as_json

    @contextmanager
    def calling(self, *, repeat_with: str | None = None) -> Iterator[C]:
        """Give the client to a block, and end the command with a message and its exit status if a call fails.

        ``repeat_with`` are the options with which the command may be repeated safely when its outcome is unknown.
        """
        try:
            client = self._client_class(self._url, timeout_s=self._timeout_s, token=self._token, tls=self._tls)
        except (ValueError, ModuleNotFoundError) as error:
            raise click.BadParameter(f"{error}; it is {self._url!r}", param_hint="--url") from None
        with client:
            try:
                yield client
            except ServiceError as error:
                self._end(error, repeat_with)
            except KeyboardInterrupt:
                click.echo("Interrupted; whether it took effect is unknown.", err=True)
                _hint(repeat_with)
                raise SystemExit(EXIT_INTERRUPTED) from None

    def _end(self, error: ServiceError, repeat_with: str | None) -> NoReturn:
        if error.is_refusal:
            repeat_with = None
        if self.as_json:
            hint = {"repeat_with": repeat_with} if repeat_with else {}
            click.echo(json.dumps(error.to_problem() | hint), err=True)
        else:
            request = f", request {error.request_id}" if error.request_id else ""
            click.echo(f"Error: {error.detail} ({error.code}{request})", err=True)
            if "order_id" in error.extra:
                order_id = error.extra["order_id"]
                click.echo(f"The order is {order_id}; how it came to this: vv order events {order_id}", err=True)
            _hint(repeat_with)
        raise SystemExit(Refused.exit_code if error.is_refusal else Unavailable.exit_code)


def _hint(repeat_with: str | None) -> None:
    if repeat_with is not None:
        click.echo(f"To repeat it without doing it twice, add {repeat_with}", err=True)


def uses(
    client_class: type[C], service: Literal["order", "inventory", "payment"]
) -> Callable[[Callable[Concatenate[Api[C], ...], None]], Callable[..., None]]:
    """Give a command the options that say how to reach ``service``, and an :class:`Api` made from them."""

    def decorate(command: Callable[Concatenate[Api[C], ...], None]) -> Callable[..., None]:
        @click.option(
            "--url",
            envvar=f"{service.upper()}_URL",
            show_envvar=True,
            help="Where the service is.  [default: where the running stack has it, else the default port]",
        )
        @data_dir_option
        @click.option(
            "--token",
            envvar="VV_TOKEN",
            show_envvar=True,
            help="An access token. Without one a stack with TLS is called as its operator.",
        )
        @click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(0, min_open=True),
            default=30.0,
            show_default=True,
            metavar="SECONDS",
            help="Time for a whole call, retries included.",
        )
        @click.option("--json", "as_json", is_flag=True, help="Print the contract as JSON; of a list, one a line.")
        @wraps(command)
        def call(
            url: str | None, data_dir: Path, token: str | None, timeout_s: float, as_json: bool, **arguments: Any
        ) -> None:
            tls = None
            if url is None and (stack := _stack_in(data_dir)) is not None:
                # A user comes as through the front door: the operator's certificate would make them somebody else.
                url, tls = str(stack[service]), stack_file.tls_of(stack, certs.FRONT_DOOR if token else certs.OPERATOR)
            url = url or client_class.async_class.default_url
            command(Api(client_class, url, as_json=as_json, timeout_s=timeout_s, token=token, tls=tls), **arguments)

        return call

    return decorate


def _stack_in(data_dir: Path) -> dict[str, Any] | None:
    stack = stack_file.read(data_dir)
    # Who names a stack must not end up at another one that happens to use the default ports.
    if stack is None and click.get_current_context().get_parameter_source("data_dir") is not ParameterSource.DEFAULT:
        raise Unavailable(f"No stack is running in {data_dir}.")
    return stack
