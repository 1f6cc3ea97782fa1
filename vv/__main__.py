"""The ``vv`` command; ``python -m vv`` is the same."""

from typing import Any

import click

from vv.commands_api import order, payment, stock
from vv.commands_audit import audit_command
from vv.commands_bench import bench
from vv.commands_certs import certs_command
from vv.commands_compare import compare_command
from vv.commands_config import config_command
from vv.commands_demo import demo
from vv.commands_gateway import gateway
from vv.commands_migrate import migrate_group
from vv.commands_stack import up


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="As --json after any command.")
@click.version_option(package_name="vv-ecommerce", prog_name="vv")
@click.pass_context
def main(context: click.Context, as_json: bool) -> None:
    """A checkout backend that never oversells and never charges twice.

    \b
    Exit codes of every command:
      0  done
      1  a definite no: refused, not found, an invariant violated
      2  wrong usage
      3  unavailable, or the outcome is unknown
    """
    if as_json:
        context.default_map = _asking_for_json(main)


for command in (
    up,
    demo,
    migrate_group,
    order,
    stock,
    payment,
    audit_command,
    bench,
    compare_command,
    gateway,
    certs_command,
    config_command,
):
    main.add_command(command)


def _asking_for_json(group: click.Group) -> dict[str, Any]:
    """Defaults that switch ``--json`` on in every command below ``group``."""
    return {
        name: _asking_for_json(command) if isinstance(command, click.Group) else {"as_json": True}
        for name, command in group.commands.items()
    }


if __name__ == "__main__":
    main(prog_name="vv")
