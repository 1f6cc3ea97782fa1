"""``vv up``."""

import asyncio
import secrets
import shlex
from pathlib import Path

import click

from vv import stack_file
from vv.foreground import while_up
from vv.output import json_option, say, say_aside, show
from vv.stack import PORT_OFFSET_MAX, Stack

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
    help="What to add to the ports 8081, 8082, 8083 and 13306, so that stacks can run side by side.",
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
@json_option
def up(data_dir: Path, port_offset: int, workers: int | None, as_json: bool) -> None:
    """Run the whole stack in the foreground until Ctrl-C.

    Starts a private MariaDB in the data folder, installing the Debian package mariadb-server-core if there is none
    and we may, or uses ORDER_DATABASE_URL, INVENTORY_DATABASE_URL and PAYMENT_DATABASE_URL
    (mysql://user:password@host:port/name) when these are set. Then migrates the databases, as
    ORDER_MIGRATION_DATABASE_URL and so on if set, and starts the three services. What dies is started again.

    Other variables that start with ORDER_, INVENTORY_ or PAYMENT_ are settings of the services.

    Ctrl-C lets running requests finish and stops everything; a second Ctrl-C does not wait for the requests.

    Exit code: 0 stopped as asked, 2 wrong usage, 3 something needed is not there.
    """
    asyncio.run(_up(data_dir, port_offset, workers, as_json))


async def _up(data_dir: Path, port_offset: int, workers: int | None, as_json: bool) -> None:
    stack = Stack(data_dir, port_offset, workers=workers, say=say_aside if as_json else say)

    async def until_interrupted() -> None:
        show(stack_file.read(stack.data_dir), _welcome(stack), as_json=as_json)
        await asyncio.Event().wait()

    await while_up(stack, until_interrupted)
    stack.say("Stopped.")


def _welcome(stack: Stack) -> list[str]:
    # A new SKU each time, so that what is pasted finds stock; pasted again, the first call is refused in silence.
    sku = f"MUG-{secrets.token_hex(3)}"
    stock = f'{{"product_id": "mug", "sku": "{sku}", "quantity": 1000000}}'
    order = f'{{"user_id": "ann", "sku": "{sku}", "quantity": 2, "total_amount": 1998, "currency": "USD"}}'
    create, json_header = f"{stack.urls['inventory']}/inventory/create", "-H 'Content-Type: application/json'"
    return [
        "",
        "Ready.",
        "",
        *(f"  {service:<10} {url}   {url}/docs" for service, url in stack.urls.items()),
        "",
        f"  data       {stack.data_dir}",
        f"  logs       {stack.logs_dir}",
        "  stop       Ctrl-C",
        "",
        "Create stock and order of it; paste this as it is:",
        "",
        f"  curl -sS -o /dev/null {create} {json_header} -d {shlex.quote(stock)} && \\",
        f"  curl -sS {stack.urls['order']}/orders {json_header} -d {shlex.quote(order)}",
        "",
    ]
