"""``vv certs``."""

from collections.abc import Sequence
from pathlib import Path

import click

from vv import certs
from vv.authority import hosts_of, read_certificate
from vv.commands_stack import data_dir_option
from vv.output import json_option, show


@click.command("certs")
@data_dir_option
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where they are.  [default: certs in the data folder]",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A further DNS name or IP address under which the servers are called; may be repeated.",
)
@click.option(
    "--days", type=click.IntRange(1, 3_650), default=certs.DAYS, show_default=True, help="How long new ones are valid."
)
@click.option("--renew", is_flag=True, help="Make all of them anew, under the same authority.")
@json_option
def certs_command(
    data_dir: Path, folder: Path | None, hosts: Sequence[str], days: int, renew: bool, as_json: bool
) -> None:
    """Make certificates for development: an authority, and one for each who talks over TLS.

    What is there and good is kept. Made anew is what has less than a third of its life left, was not issued by this
    authority, or lacks a host that is asked for; hosts that a certificate has are never taken away. Running services
    take new certificates over by themselves.

    Each bears its own name, localhost, 127.0.0.1 and ::1, and may serve and call. The operator's, which may call
    everything, and that of Prometheus, to which only metrics are open, bear just their names, and may only call. Not
    for production: there, take an authority whose key does not lie beside its certificates.

    Exit code: 0 all are there, 2 wrong usage, 3 they cannot be made.
    """
    folder = (folder or data_dir / "certs").absolute()
    made = certs.ensure(folder, hosts, days=days, renew=renew)
    document = {
        "folder": str(folder),
        "ca": str(folder / f"{certs.CA}.crt"),
        "ca_key": str(folder / f"{certs.CA}.key"),
        "made": made,
        "certificates": {name: _described(folder, name) for name in certs.NAMES},
    }
    show(document, _lines(folder, made), as_json=as_json)


def _described(folder: Path, name: str) -> dict[str, object]:
    certificate = read_certificate(folder / f"{name}.crt")
    assert certificate is not None
    return {
        "certificate": str(folder / f"{name}.crt"),
        "key": str(folder / f"{name}.key"),
        "hosts": [str(host) for host in hosts_of(certificate)],
        "expires_at": certificate.not_valid_after_utc.isoformat(),
    }


def _lines(folder: Path, made: Sequence[str]) -> list[str]:
    lines = [f"Certificates for development, in {folder}:", ""]
    for name in (certs.CA, *certs.NAMES):
        certificate = read_certificate(folder / f"{name}.crt")
        assert certificate is not None
        hosts = ", ".join(map(str, hosts_of(certificate)))
        state = "made" if name in made else "kept"
        lines.append(f"  {name:<16} {state}  until {certificate.not_valid_after_utc:%Y-%m-%d}  {hosts}".rstrip())
    return [
        *lines,
        "",
        f"Who has {folder / certs.CA}.key can make certificates that all of these trust: keep it to yourself,",
        "and use none of this in production.",
    ]
