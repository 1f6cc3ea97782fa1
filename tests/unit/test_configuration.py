"""``vv config``: what the environment makes of the settings, with nothing secret in it, and ``.env.example``."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.database_url import masked_database_url, parse_database_url
from common.settings import read_settings
from common.settings_names import OF_SOME_SERVICES, names_in_doubt
from vv import front_door
from vv.__main__ import main
from vv.configuration import PROGRAMS
from vv.configuration_example import COMPOSE, WITHOUT_OPTION, _of_commands, example

ROOT = Path(__file__).parents[2]
URLS = {f"{service.upper()}_DATABASE_URL": f"mysql://{service}:letmein@db/{service}_db" for service in PROGRAMS}
PREFIXES = ("ORDER_", "INVENTORY_", "PAYMENT_", "AUTH", "TLS_", "TRACE_", "VV_", "FRONT_DOOR_")


@pytest.fixture(autouse=True)
def _only_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """The services can start, and nothing else is set."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIXES)]:
        monkeypatch.delenv(name)
    for name, url in URLS.items():
        monkeypatch.setenv(name, url)


def vv_config(*arguments: str, **variables: str) -> Result:
    return CliRunner(env=variables).invoke(main, ["config", *arguments])


def document(*arguments: str, **variables: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(vv_config("--json", *arguments, **variables).stdout)
    return found


def setting(name: str, **variables: str) -> dict[str, Any]:
    """A setting as the document has it."""
    service = name.partition("_")[0].lower()
    [found] = [
        each
        for each in document("--service", service, **variables)["services"][service]["settings"]
        if each["variable"] == name
    ]
    return dict(found)


class TestValues:
    def test_a_service_that_would_start(self) -> None:
        """Every setting of every service has its value and what it means; exit code 0."""
        ended = vv_config()
        assert ended.exit_code == 0, ended.stdout
        for service, program in PROGRAMS.items():
            for name in program.settings.model_fields:
                assert f"  {service.upper()}_{name.upper()} " in ended.stdout
        assert "Wrong:" not in ended.stdout
        assert "In doubt:" not in ended.stdout

    @pytest.mark.parametrize(
        ("name", "variables", "value", "origin"),
        [
            ("ORDER_PORT", {}, 8081, ("default", None)),
            ("ORDER_PORT", {"ORDER_PORT": "9000"}, 9000, ("variable", "ORDER_PORT")),
            ("ORDER_PORT", {"order_port": "9000"}, 9000, ("variable", "ORDER_PORT")),
            ("ORDER_PORT", {"ORDER_PORT": ""}, 8081, ("default", None)),
            ("ORDER_AUTH", {"AUTH": "off"}, "off", ("variable for all services", "AUTH")),
            ("ORDER_AUTH", {"AUTH": "on", "ORDER_AUTH": "off"}, "off", ("variable", "ORDER_AUTH")),
            # Something else is wrong, so that the settings cannot be read as a whole.
            ("ORDER_PORT", {"ORDER_PORT": "9000", "ORDER_LEASE_S": "-1"}, 9000, ("variable", "ORDER_PORT")),
            ("ORDER_LEASE_S", {"ORDER_LEASE_S": "-1"}, None, ("variable", "ORDER_LEASE_S")),
        ],
    )
    def test_where_a_value_comes_from(
        self, name: str, variables: dict[str, str], value: object, origin: tuple[str, str | None]
    ) -> None:
        """A default, the service's own variable, or one for all services; what comes from nowhere is a default."""
        found = setting(name, **variables)
        assert found["value"] == value
        assert found["origin"] == {"kind": origin[0], "name": origin[1]}

    def test_a_secret_from_a_file(self, tmp_path: Path) -> None:
        """The file is named, and what it says is masked."""
        file = tmp_path / "url"
        file.write_text("mysql://order:letmein@db2/order_db\n", encoding="utf-8")
        found = setting("ORDER_DATABASE_URL", ORDER_DATABASE_URL="", ORDER_DATABASE_URL_FILE=str(file))
        assert found["value"] == "mysql://order:***@db2/order_db"
        assert found["origin"] == {"kind": "file", "name": str(file)}

    @pytest.mark.parametrize(
        ("name", "value", "shown"),
        [
            ("ORDER_PORT", "abc", "abc"),
            ("ORDER_HOST", "0.0.0.0", "0.0.0.0"),
            ("ORDER_PAYMENT_URL", "payment:8083", "payment:8083"),
            ("ORDER_PAYMENT_URL", "http://ann:letmein@payment", "http://***@payment"),
            ("ORDER_PAYMENT_URL", "ann:let@mein@payment", "***@payment"),
            ("ORDER_PAYMENT_URL", "http://payment?token=letmein", "http://payment?***"),
            ("ORDER_LOG_LEVEL", "DEBUG\n", "'DEBUG\\n'"),
            ("ORDER_LEASE_S", "x" * 1000, f"{'x' * 100}…"),
            # This one is secret.
            ("ORDER_DATABASE_URL", "order_db", None),
        ],
    )
    def test_a_wrong_value_is_shown(self, name: str, value: str, shown: str | None) -> None:
        """As it stands there, so that one sees what is wrong with it, but for what may be a password or a token."""
        assert setting(name, **{name: value})["given"] == shown
        assert setting(name)["given"] is None
        [line] = [line for line in vv_config(**{name: value}).stdout.splitlines() if line.startswith(f"  {name} ")]
        assert (f" {shown} (wrong) " if shown else " (wrong) ") in line

    def test_a_file_that_is_missing_is_named(self, tmp_path: Path) -> None:
        """Its path is no secret, unless it looks as if the secret itself had been put there."""
        for path in (str(tmp_path / "gone"), "/run/gone/url"):
            found = document("--service", "order", ORDER_DATABASE_URL="", ORDER_DATABASE_URL_FILE=path)
            assert found["mistakes"] == [
                f"ORDER_DATABASE_URL_FILE: the file {path} cannot be read: No such file or directory"
            ]
            assert found["services"]["order"]["settings"][0]["origin"] == {"kind": "file", "name": path}
        for secret in ("letmein", "mysql://ann:letmein@db/x", "letmein/+==", "letmein" * 100):
            ended = vv_config("--json", ORDER_DATABASE_URL="", ORDER_DATABASE_URL_FILE=secret)
            assert "ORDER_DATABASE_URL_FILE: the file (not shown, as it may be" in ended.stdout
            assert secret not in ended.output.replace("mysql://order:letmein", "")


class TestSecrets:
    @pytest.mark.parametrize("as_json", [True, False])
    def test_nothing_secret_is_printed(self, as_json: bool, tmp_path: Path) -> None:
        """Neither a password in a URL, nor a token, nor a secret, be it right or in a URL that is wrong."""
        token = tmp_path / "token"
        token.write_text("sesame-from-a-file", encoding="utf-8")
        ended = vv_config(
            *(["--json"] if as_json else []),
            AUTH_CLIENT_SECRET="hush-hush",
            ORDER_AUTH_CLIENT_ID="order",
            PAYMENT_GATEWAY_TOKEN_FILE=str(token),
            ORDER_INVENTORY_URL="http://ann:letmein@inventory",
            INVENTORY_DATABASE_URL="mysql://ann:letmein/b@db/x",
            # Somebody took this variable for the other one.
            PAYMENT_DATABASE_URL="",
            PAYMENT_DATABASE_URL_FILE="mysql://ann:letmein@db/x",
        )
        for secret in ("letmein", "hush", "sesame"):
            assert secret not in ended.output
        assert "***" in ended.stdout

    @given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("/:@?#[]&=%"), min_size=1))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_no_part_of_a_password_is_shown(self, password: str) -> None:
        """Whatever stands where the password is: it is masked, or the URL is refused in the same words."""
        assert what_is_said_of(f"mysql://ann:{password}@db/x") in (
            "mysql://ann:***@db/x",
            "must quote / : @ ? # [ ] in its password (%2F %3A %40 %3F %23 %5B %5D)",
            "must have a number for a port, and quote / : @ ? # [ ] in its password (%2F %3A %40 %3F %23 %5B %5D)",
            "must look like mysql://user:password@host:port/name",
        )


class TestMistakes:
    @pytest.mark.parametrize(
        "variables",
        [
            {"ORDER_DATABASE_URL": ""},
            {"ORDER_PORT": "many", "ORDER_LEASE_S": "-1", "ORDER_DATABASE_URL_FILE": "/gone"},
            {"ORDER_DATABASE_URL": "", "ORDER_DATABASE_URL_FILE": "/gone", "ORDER_WORKERS": "0"},
            {"ORDER_HOST": "0.0.0.0"},
            {"TLS_CERTIFICATE": "/gone", "TLS_KEY": "/gone", "TLS_CA": "/gone"},
        ],
        ids=str,
    )
    def test_the_same_sentences_as_at_start(
        self, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Exit code 2, and for each mistake one sentence: the one that the service ends with, and all of them."""
        with monkeypatch.context() as environment:
            for name, value in variables.items():
                environment.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                start("order")
        at_start = capsys.readouterr().err.splitlines()
        config = vv_config("--service", "order", "--json", **variables)
        assert (ended.value.code, config.exit_code) == (2, 2)
        assert at_start
        assert json.loads(config.stdout)["mistakes"] == at_start

    def test_every_mistake_is_named_at_once(self) -> None:
        """A file that cannot be read hides no other mistake."""
        found = document(ORDER_DATABASE_URL="", ORDER_DATABASE_URL_FILE="/gone", ORDER_PORT="x", PAYMENT_WORKERS="0")
        assert [mistake.partition(":")[0] for mistake in found["mistakes"]] == [
            "ORDER_DATABASE_URL_FILE",
            "ORDER_PORT",
            "PAYMENT_WORKERS",
        ]

    def test_traces_without_what_makes_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A service that is to send traces, and lacks the extra that can, says so and does not start."""
        endpoint = {"TRACE_ENDPOINT": "http://127.0.0.1:4318"}
        assert document("--service", "order", **endpoint)["mistakes"] == []
        monkeypatch.setitem(sys.modules, "opentelemetry.proto", None)
        [mistake] = document("--service", "order", **endpoint)["mistakes"]
        assert mistake.startswith("ORDER_TRACE_ENDPOINT: OpenTelemetry is not installed; make extras installs it")

    def test_another_service_is_not_asked(self) -> None:
        """With --service, what is wrong with the others does not count."""
        assert vv_config("--service", "order", PAYMENT_PORT="x").exit_code == 0


class TestNames:
    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("ORDER_POOL_SIZE", "ORDER_POOL_SIZE: no such setting; did you mean ORDER_POOL_SIZE_MAX?"),
            ("order_lease", "ORDER_LEASE: no such setting; did you mean ORDER_LEASE_S?"),
            ("PAYMENT_GATWAY_URL", "PAYMENT_GATWAY_URL: no such setting; did you mean PAYMENT_GATEWAY_URL?"),
            ("INVENTORY_XYZZY", "INVENTORY_XYZZY: no such setting."),
            ("AUTH_ISSUR", "AUTH_ISSUR: no such setting; did you mean AUTH_ISSUER?"),
            ("AUTHISSUER", "AUTHISSUER: no such setting; did you mean AUTH_ISSUER?"),
            ("TLS_CERT", "TLS_CERT: no such setting; did you mean TLS_CERTIFICATE?"),
            (
                "AUTH_CLIENT_SECRET_FILE",
                "AUTH_CLIENT_SECRET_FILE: no such setting; did you mean ORDER_AUTH_CLIENT_SECRET_FILE?",
            ),
            ("VV_DATADIR", "VV_DATADIR: no such setting; did you mean VV_DATA_DIR?"),
            ("FRONT_DOOR_BURST", "FRONT_DOOR_BURST: no such setting; did you mean FRONT_DOOR_BURST_PER_IP?"),
        ],
    )
    def test_a_mistyped_name(self, name: str, sentence: str) -> None:
        """It is named once, with the nearest name that there is; the services would start all the same."""
        assert document(**{name: "1"})["doubts"] == [sentence]
        assert vv_config(**{name: "1"}).exit_code == 0

    @pytest.mark.parametrize(
        "name",
        ["AUTHOR_NAME", "AUTHORIZATION", "ORDER_SERVICE_HOST", "ORDER_PORT_8081_TCP_ADDR", "HOST", "SSL_CERT_FILE"],
    )
    def test_the_variables_of_other_programs(self, name: str) -> None:
        """Nobody is told about what begins in the same way and is not ours, such as what Kubernetes sets."""
        assert document(**{name: "1"})["doubts"] == []

    def test_a_service_knows_the_variables_of_everybody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No variable of .env.example is in doubt at the start of any service, nor to vv config."""
        names = [line[1:].partition("=")[0] for line in example(main).splitlines() if _is_assignment(line)]
        assert len(names) > 100
        for name in {*names, *OF_SOME_SERVICES[:2]}:
            monkeypatch.setenv(name, "1")
        for program in PROGRAMS.values():
            assert names_in_doubt(program.settings) == []
        assert document()["doubts"] == []


class TestExample:
    def test_it_is_up_to_date(self) -> None:
        """``.env.example`` is what ``vv config --example`` prints; if it is not: vv config --example > .env.example."""
        assert vv_config("--example").stdout == (ROOT / ".env.example").read_text(encoding="utf-8")

    def test_it_has_every_variable(self) -> None:
        """Those of the services, of the options of vv, and of the front door's template; each once, commented out."""
        lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if line and not line.startswith("#")] == []
        names = [line[1:].partition("=")[0] for line in lines if _is_assignment(line)]
        assert len(names) == len(set(names))
        shared = ("auth", "tls_", "trace_")
        settings_of_services = {
            (name if name.startswith(shared) and name in OF_ALL else f"{service}_{name}").upper()
            for service, program in PROGRAMS.items()
            for name in program.settings.model_fields
        }
        options = {variable.name for variable in (*_of_commands(main), *WITHOUT_OPTION)}
        assert {"VV_DATA_DIR", "VV_DATABASE_PROGRAM", "VV_TOKEN", "ORDER_URL"} <= options
        compose = {variable.name for variable in COMPOSE}
        migrations = {f"{service.upper()}_MIGRATION_DATABASE_URL" for service in PROGRAMS}
        assert set(names) == settings_of_services | options | migrations | compose | front_door.variables()

    def test_it_has_what_compose_takes(self) -> None:
        """Each variable of compose.yaml is there, those that are nobody else's with the same default."""
        text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
        taken = dict(re.findall(r"(?<!\$)\$\{([A-Z_]+)(?::-([^}]*))?\}", text))
        names = {line[1:].partition("=")[0] for line in example(main).splitlines() if _is_assignment(line)}
        assert {variable.name: variable.default for variable in COMPOSE}.items() <= taken.items()
        assert taken.keys() <= names

    def test_defaults_are_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever takes all the # away changes nothing: what has no default is empty, and an empty one is not set."""
        before = document()
        for line in example(main).splitlines():
            if _is_assignment(line):
                name, _, value = line[1:].partition("=")
                monkeypatch.setenv(name, value or os.environ.get(name, ""))
        after = document()
        for service in PROGRAMS:
            values = [
                [(each["variable"], each["value"]) for each in found["services"][service]["settings"]]
                for found in (before, after)
            ]
            assert values[0] == values[1]


# The settings that every service has.
OF_ALL = set.intersection(*(set(program.settings.model_fields) for program in PROGRAMS.values()))


def _is_assignment(line: str) -> bool:
    return line.startswith("#") and line[1:].partition("=")[0].replace("_", "").isupper()


def what_is_said_of(url: str) -> str:
    try:
        parse_database_url(url)
    except ValueError as error:
        return str(error)
    return masked_database_url(url)


def start(service: str) -> None:
    """As ``python -m NAME_service`` does, up to the point at which it would listen."""
    program = PROGRAMS[service]
    program.make_app(read_settings(program.settings))
