"""What a load test can be told, on the command line and on the web page alike."""

import ssl
from argparse import Action, ArgumentTypeError, Namespace
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Options:
    """The options of one run; named as on the command line, with ``_`` in place of ``-``."""

    inventory_url: str
    payment_url: str
    client_certificate: str
    client_key: str
    client_ca: str
    sku_tag: str
    stock: int
    catalogue: int
    catalogue_stock: int
    carts: float
    bad_cards: float
    replays: float
    payment_checks: float
    rate: float
    in_flight_max: int
    settle: float
    allow_overload: bool

    @classmethod
    def of(cls, parsed: Namespace) -> "Options":
        """Check what the web page may have changed since the command line was parsed.

        Raises ArgumentTypeError, with the option's name.
        """
        given = {field.name: getattr(parsed, field.name) for field in fields(cls)}
        for flag, number in _NUMBERS.items():
            name = flag.removeprefix("--").replace("-", "_")
            try:
                given[name] = number(given[name])
            except ArgumentTypeError as error:
                raise ArgumentTypeError(f"{flag}: {error}") from None
        for name in ("inventory_url", "payment_url"):
            given[name] = base_url(given[name])
        options = cls(**given)
        try:
            options.tls_context()
        except OSError as error:
            raise ArgumentTypeError(f"The --client files cannot be used: {error}.") from None
        return options

    def tls_context(self) -> ssl.SSLContext:
        """For connections to services that have TLS: both ends verified. Raises OSError."""
        context = ssl.create_default_context(cafile=self.client_ca or None)
        if self.client_certificate or self.client_key:
            context.load_cert_chain(self.client_certificate, self.client_key)
        return context


def base_url(text: str) -> str:
    """The URL of a service, without a slash at its end. Raises ArgumentTypeError."""
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise ArgumentTypeError(f"{text!r} is not the URL of a service, such as http://127.0.0.1:8081.")
    return text.rstrip("/")


@dataclass(frozen=True)
class _Number:
    """A number of the type of ``default``, from ``low`` to ``high``."""

    default: float
    low: float
    high: float
    help: str

    def __call__(self, given: object) -> float:
        kind = type(self.default)
        try:
            number = kind(str(given))
        except ValueError:
            number = None
        if number is None or not self.low <= number <= self.high:
            whole = "whole " if kind is int else ""
            raise ArgumentTypeError(f"{given} is not a {whole}number from {self.low} to {self.high}.")
        return number


_NUMBERS = {
    "--stock": _Number(500, 0, 10**9, "Units of the flash sale's one SKU."),
    "--catalogue": _Number(20, 2, 200, "SKUs that everybody else buys from."),
    "--catalogue-stock": _Number(1_000_000, 0, 10**9, "Units of each SKU of the catalogue."),
    "--carts": _Number(0.1, 0, 1, "Share of the buyers with two SKUs of the catalogue in the cart as well."),
    "--bad-cards": _Number(0.05, 0, 1, "Share of the buyers whose card is declined."),
    "--replays": _Number(0.1, 0, 1, "Share of the orders that are sent again with the same Idempotency-Key."),
    "--payment-checks": _Number(0.2, 0, 1, "Share of the completed orders whose payment is looked up at once."),
    "--rate": _Number(50.0, 0.01, 10_000, "Steady: buyers that arrive in a second, however long the replies take."),
    "--in-flight-max": _Number(2_000, 1, 50_000, "Steady: buyers served at once; one more is a failure, not sent."),
    "--settle": _Number(90.0, 0, 3_600, "Seconds that unfinished orders get after the run to end."),
}


_TLS = {
    "certificate": "Certificate to show to the services, such as the operator's of vv certs; PEM",
    "key": "The key of that certificate",
    "ca": "The CA of the services' certificates",
}


class _ShowOptions(Action):
    """Locust prints its own help before it has read a locustfile."""

    def __call__(self, parser: Any, *_: object) -> None:
        ours = type(parser)(
            prog="locust -f loadtests/locustfile.py",
            usage="%(prog)s [locust's options, see --help] [options] [FlashSale] [BrowseAndBuy] [Steady]",
            description="--host is the order service, http://127.0.0.1:8081 by default.",
            add_help=False,
        )
        add_options(ours)
        ours.print_help()
        parser.exit()


def add_options(parser: Any) -> None:
    """Add the options to locust's own."""
    text = "Show these options and exit."
    parser.add_argument("--help-options", action=_ShowOptions, nargs=0, include_in_web_ui=False, help=text)
    for name, port in (("inventory", 8082), ("payment", 8083)):
        default, variable = f"http://127.0.0.1:{port}", f"{name.upper()}_URL"
        text = f"The {name} service (default: {default})."
        flag = f"--{name}-url"
        parser.add_argument(flag, default=default, env_var=variable, type=base_url, metavar="URL", help=text)
    for name, what in _TLS.items():
        text, variable = f"{what}; needed where the services have TLS.", f"LOAD_CLIENT_{name.upper()}"
        parser.add_argument(f"--client-{name}", default="", env_var=variable, metavar="FILE", help=text)
    text = "End of the names of the run's SKUs, random unless given; what exists already is sold on as it is."
    parser.add_argument("--sku-tag", default="", metavar="TAG", help=text)
    for flag, number in _NUMBERS.items():
        text = f"{number.help.removesuffix('.')} (default: {number.default})."
        parser.add_argument(flag, default=number.default, type=number, metavar="NUMBER", help=text)
    text = "Take 503 overloaded with Retry-After for a refusal, not for a broken promise: for overload on purpose."
    parser.add_argument("--allow-overload", action="store_true", help=text)
