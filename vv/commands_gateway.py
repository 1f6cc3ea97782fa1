"""``vv gateway``."""

import asyncio
import os
import signal
import ssl
from pathlib import Path

import click
from aiohttp import web

from common.certificates import Certificates
from common.guard import Guard
from common.security import Security
from common.server import raise_open_files_limit
from common.telemetry import configure_logging
from common.web import SECURITY
from vv import certs, gateway_ledger
from vv.errors import Unavailable
from vv.gateway import Behaviour, make_app
from vv.gateway_ledger import Ledger
from vv.output import json_option, show

_HOST = "127.0.0.1"
# Longer than any client of ours keeps a connection that it does not use.
_KEEPALIVE_S = 75.0


@click.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=8084, show_default=True, help="0 is any free port.")
@click.option(
    "--ledger",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file that says what was charged; it is created, and afterwards only ever added to.",
)
@click.option("--latency-s", type=click.FloatRange(0, 3_600), default=0.0, help="Seconds that each call takes.")
@click.option("--slow-s", type=click.FloatRange(0, 3_600), default=3.0, help="Seconds longer for tok_slow.")
@click.option("--decline-share", type=click.FloatRange(0, 1), default=0.0, help="Share of charges that are declined.")
@click.option(
    "--certificates",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder that vv certs has made: use TLS, and let in the payment service and the operator only.",
)
@json_option
def gateway(
    port: int,
    path: Path,
    latency_s: float,
    slow_s: float,
    decline_share: float,
    certificates: Path | None,
    as_json: bool,
) -> None:
    """Run a payment gateway with a ledger of its own, until Ctrl-C.

    It listens on this machine only. The payment service uses it with PAYMENT_GATEWAY_URL=http://127.0.0.1:8084,
    or https://127.0.0.1:8084 with --certificates; the operator's certificate then reads the ledger.
    Payment methods decide as in the sandbox (tok_ok, tok_declined, tok_timeout, tok_slow, tok_error). What was
    answered is on the disk: kill -9 loses none of it.

    Exit code: 0 stopped as asked, 2 wrong usage, 3 the port or the ledger cannot be used.
    """
    raise_open_files_limit()
    configure_logging("gateway", "WARNING")
    behaviour = Behaviour(latency_s=latency_s, slow_s=slow_s, decline_share=decline_share)
    with gateway_ledger.opened(path) as ledger:
        asyncio.run(_serve(ledger, make_app(ledger, behaviour, _security(certificates)), port, path, as_json))


def _security(certificates: Path | None) -> Security:
    if certificates is None:
        return Security()
    try:
        return Security(
            Guard(None, by_certificate=True), None, Certificates(*certs.files_of(certificates, "payment-gateway"))
        )
    except OSError as error:
        raise Unavailable(f"--certificates {certificates} cannot be used: {error.strerror}.") from error


async def _serve(ledger: Ledger, app: web.Application, port: int, path: Path, as_json: bool) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=_KEEPALIVE_S, shutdown_timeout=5)
    await runner.setup()
    try:
        url = await _listen(runner, port, app[SECURITY].server_tls)
        lines = [f"The gateway listens on {url}; {len(ledger)} entries in {path}.", "Stop it with Ctrl-C."]
        show({"url": url, "ledger": str(path), "entries": len(ledger)}, lines, as_json=as_json)
        ends = [asyncio.create_task(event.wait()) for event in (stopped, ledger.failed)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await runner.cleanup()
    if ledger.failed.is_set():
        raise Unavailable(f"--ledger {path} cannot be written any more; make room, and start the gateway again.")


async def _listen(runner: web.AppRunner, port: int, tls: ssl.SSLContext | None) -> str:
    site = web.TCPSite(runner, _HOST, port, backlog=2048, ssl_context=tls)
    try:
        await site.start()
    except OSError as error:
        raise Unavailable(f"--port {port} cannot be used: {os.strerror(error.errno or 0)}.") from error
    return f"{'https' if tls else 'http'}://{_HOST}:{runner.addresses[0][1]}"
