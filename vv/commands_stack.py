"""``vv up``."""

import asyncio
import os
from pathlib import Path

import click

from vv import stack_file
from vv.foreground import while_up
from vv.output import json_option, say, say_aside, show
from vv.stack import PORT_OFFSET_MAX, Stack
from vv.welcome import welcome

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=".data",
    show_default=True,
    envvar="VV_DATA_DIR",
    show_envvar=True,
    help="Where the database, the logs and stack.json are.",
)
port_offset_option = click.option(
    "--port-offset",
    type=click.IntRange(0, PORT_OFFSET_MAX),
    default=0,
    show_default=True,
    envvar="VV_PORT_OFFSET",
    show_envvar=True,
    help="What to add to the ports 8081, 8082, 8083, 8443 and 13306, so that stacks can run side by side.",
)


@click.command()
@data_dir_option
@port_offset_option
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    envvar="VV_WORKERS",
    show_envvar=True,
    help="Processes of each service.  [default: ORDER_WORKERS and so on, or 1]",
)
@click.option("--tls", is_flag=True, help="Encrypt every connection; both ends show certificates, made as by vv certs.")
@click.option(
    "--gateway",
    "--front-door",
    "front_door",
    is_flag=True,
    help="Also run the front door: nginx in front of the three services, with TLS, on port 8443.",
)
@json_option
def up(data_dir: Path, port_offset: int, workers: int | None, tls: bool, front_door: bool, as_json: bool) -> None:
    """Run the whole stack in the foreground until Ctrl-C.

    Starts a private MariaDB in the data folder (or the program that VV_DATABASE_PROGRAM names, of MariaDB or MySQL),
    installing the Debian package mariadb-server-core if there is none and we may, or uses ORDER_DATABASE_URL,
    INVENTORY_DATABASE_URL and PAYMENT_DATABASE_URL (mysql://user:password@host:port/name) when these are set. Then
    migrates the databases, as ORDER_MIGRATION_DATABASE_URL and so on if set, and starts the three services. What dies
    is started again.

    With --front-door (or --gateway, which has nothing to do with the payment gateway), variables that start with
    FRONT_DOOR_ are settings of nginx (deploy/gateway/defaults.env). nginx is not installed by this command: on Debian
    and Ubuntu it is in the package nginx-light.

    Other variables that start with ORDER_, INVENTORY_ or PAYMENT_ are settings of the services.

    Ctrl-C lets running requests finish and stops everything; a second Ctrl-C does not wait for the requests.

    Exit code: 0 stopped as asked, 2 wrong usage, 3 something needed is not there.
    """
    say_it = say_aside if as_json else say
    stack = Stack(data_dir, port_offset, workers=workers, tls=tls, with_front_door=front_door, say=say_it)
    asyncio.run(_up(stack, as_json))


async def _up(stack: Stack, as_json: bool) -> None:
    async def until_interrupted() -> None:
        show(stack_file.read(stack.data_dir), welcome(stack, os.environ), as_json=as_json)
        await asyncio.Event().wait()

    await while_up(stack, until_interrupted)
    stack.say("Stopped.")
