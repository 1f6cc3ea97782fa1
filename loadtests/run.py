"""What happens when locust starts, when a run begins, and when it ends."""

import logging
import sys
from argparse import ArgumentTypeError
from typing import Any

import gevent
from gevent.event import Event
from locust import events
from locust.env import Environment
from locust.runners import STATE_RUNNING, MasterRunner, Runner, WorkerRunner

from options import Options, add_options, base_url
from shop import CannotOpen, Shop

DEFAULT_HOST = "http://127.0.0.1:8081"

all_are_here = Event()
"""Set when all users are spawned."""

_open_shop: Shop | None = None


def the_shop() -> Shop:
    """The shop of the run that is going on."""
    assert _open_shop is not None
    return _open_shop


@events.init_command_line_parser.add_listener
def _on_init_command_line_parser(parser: Any) -> None:
    add_options(parser)


@events.init.add_listener
def _on_init(environment: Environment, runner: Any, **_: Any) -> None:
    if isinstance(runner, MasterRunner | WorkerRunner):
        sys.exit("The load tests run in one process, which sees every sale: no --master, --worker or --processes.")
    # gevent's clock stood still while modules were imported, and --run-time would be short by as much.
    gevent.get_hub().loop.update_now()

    @events.spawning_complete.add_listener
    def _on_spawning_complete(user_count: int) -> None:
        all_are_here.set()
        gevent.spawn(_end_when_all_have_left, environment, runner)


@events.test_start.add_listener
def _on_test_start(environment: Environment, **_: Any) -> None:
    global _open_shop
    all_are_here.clear()
    try:
        assert environment.parsed_options is not None
        options = Options.of(environment.parsed_options)
        environment.host = base_url(environment.host or DEFAULT_HOST)
        _open_shop = Shop(environment, options, environment.host)
        _open_shop.open()
    except (ArgumentTypeError, CannotOpen) as error:
        _give_up(environment, str(error))
        gevent.spawn(_end, environment)
        # Nobody is to be spawned.
        raise gevent.GreenletExit from None


@events.test_stop.add_listener
def _on_test_stop(environment: Environment, **_: Any) -> None:
    if _open_shop is None:
        return
    if not _open_shop.is_open:
        _give_up(environment, "It was stopped before the goods were put in.")
        return
    _open_shop.settle()
    if not _open_shop.promises.are_kept:
        environment.process_exit_code = 1
    if environment.web_ui is not None:
        _show(_open_shop)


@events.quitting.add_listener
def _on_quitting(environment: Environment, **_: Any) -> None:
    """Ctrl-C comes here first: the final account is part of the run."""
    if _open_shop is None or _open_shop.is_settled:
        return
    assert environment.runner is not None
    environment.runner.stop()
    if _open_shop is not None and not _open_shop.is_settled:
        environment.process_exit_code = 1
        print("The run was interrupted in its final account; what it found is incomplete.", file=sys.stderr)


@events.quit.add_listener
def _on_quit(exit_code: int, **_: Any) -> None:
    if _open_shop is not None:
        _show(_open_shop)


def _give_up(environment: Environment, why: str) -> None:
    global _open_shop
    _open_shop = None
    environment.process_exit_code = 2
    logging.getLogger(__name__).critical("The run could not begin. %s", why)


def _end_when_all_have_left(environment: Environment, runner: Runner) -> None:
    """A flash sale is over when its last buyer has gone, whatever --run-time says."""
    runner.user_greenlets.join()
    if runner.state == STATE_RUNNING:
        _end(environment)


def _end(environment: Environment) -> None:
    """The end of the run, and of the process if there is no web page to begin another one."""
    assert environment.runner is not None
    if environment.web_ui is None:
        environment.runner.quit()
    else:
        environment.runner.stop()


def _show(shop: Shop) -> None:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in shop.books.outcomes.most_common())
    held, put_in = shop.books.held(shop.hot), shop.books.put_in[shop.hot]
    lines = [
        "",
        f"Orders: {outcomes or 'none'}.",
        f"{shop.hot}: {put_in} put in, {held} sold.",
        f"Refused with 503 overloaded: {shop.promises.overloads} requests.",
        *shop.promises.summary(),
        "Every promise that was checked was kept." if shop.promises.are_kept else "PROMISES WERE BROKEN.",
    ]
    print("\n".join(lines), file=sys.stderr)
