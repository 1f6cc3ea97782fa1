"""What users can set, call and meet is documented."""

from importlib import import_module
from pathlib import Path

import click
import pytest
from pydantic.fields import FieldInfo

from common.errors import ERRORS_BY_CODE
from tests.route_tables import ROUTES
from vv.__main__ import main
from vv.audit.run import NAMES, QUIESCED_NAMES

ROOT = Path(__file__).parents[2]
SERVICES = ("order", "inventory", "payment")


@pytest.fixture(scope="module")
def docs() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def _default(field: FieldInfo) -> str:
    """As the table of the settings has it."""
    if field.is_required():
        return "required"
    return "" if field.default is None else f"`{field.default}`"


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting(service: str) -> None:
    """Each environment variable of a service is in the README, with its default and its description."""
    fields = import_module(f"{service}_service.settings").Settings.model_fields
    assert [name for name, field in fields.items() if not field.description] == []
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if line.startswith("| `")]
    for name, field in fields.items():
        variable = f"`{service.upper()}_{name.upper()}`"
        [row] = [row for row in rows if variable in row.split(" | ")[0]]
        assert _default(field) in row.split(" | ")[1], row
        assert str(field.description) in row, row


def test_every_endpoint(docs: str) -> None:
    """Each method and path of the route tables is in the docs."""
    calls = [f"{route.method} {route.path}" for routes in ROUTES.values() for route in routes]
    assert len(calls) > 15
    assert [call for call in calls if call not in docs] == []


def test_every_error_code(docs: str) -> None:
    """Each code that a caller may decide by is in the docs, with its status."""
    missing = [code for code, error in ERRORS_BY_CODE.items() if f"| `{code}` | {error.status} |" not in docs]
    assert missing == []


def test_every_command(docs: str) -> None:
    """Each command of vv says in its help what it does, and is in the docs."""
    for name, command in main.commands.items():
        assert f"vv {name}" in docs
        assert command.help
        for sub_name, sub in command.commands.items() if isinstance(command, click.Group) else ():
            assert sub_name in docs, f"vv {name} {sub_name}"
            assert sub.help


def test_every_invariant() -> None:
    """Each invariant of the audit has a line in its page."""
    lines = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8").splitlines()
    assert [line.split("`")[1] for line in lines if line.startswith("| `")] == NAMES + QUIESCED_NAMES
