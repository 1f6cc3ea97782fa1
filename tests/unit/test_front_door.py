"""What the front door's configuration has in common with the rest, without nginx."""

import json
import re
from collections.abc import Iterator

import pytest

from common.errors import ERRORS_BY_CODE
from vv import front_door

# What has no default: it is different everywhere.
GIVEN = {
    "ORDER_UPSTREAM",
    "INVENTORY_UPSTREAM",
    "PAYMENT_UPSTREAM",
    "FRONT_DOOR_CERTIFICATE",
    "FRONT_DOOR_KEY",
    "FRONT_DOOR_CLIENT_CERTIFICATE",
    "FRONT_DOOR_CLIENT_KEY",
    "FRONT_DOOR_CA",
}


def test_every_variable_has_a_value_or_must_be_given() -> None:
    """And no value is for a variable that is not there."""
    used = set(re.findall(r"\$\{(\w+)\}", front_door.template()))
    assert used == front_door.defaults().keys() | GIVEN
    assert not front_door.defaults().keys() & GIVEN


def test_nothing_is_left_to_fill_in() -> None:
    """As envsubst does it: nginx's own variables stay as they are."""
    text = front_door.render(front_door.template(), front_door.defaults() | dict.fromkeys(GIVEN, "x"))
    assert "${" not in text
    assert "$vv_request_id" in text
    with pytest.raises(KeyError):
        front_door.render("${NOT_THERE}", {})


def problems() -> Iterator[tuple[int, dict[str, object]]]:
    for status, document in re.findall(r"return (\d+) '(\{\"type\".*\})';", front_door.template()):
        yield int(status), json.loads(document)


def test_its_problem_documents_are_those_of_the_services() -> None:
    """The same codes with the same meaning; nothing but the detail is nginx's own."""
    found = list(problems())
    assert len(found) == 8
    for status, problem in found:
        error = ERRORS_BY_CODE[str(problem["code"])](str(problem["detail"]), retry_after_s=problem.get("retry_after_s"))  # type: ignore[arg-type]
        assert problem == error.to_problem("$vv_request_id")
        assert status == error.status
        assert ("retry_after_s" in problem) == (error.retryable and status != 500)
