"""One vocabulary of errors, read forwards by the services and backwards by the clients."""

import pytest

from common import clients, errors

ALL = sorted(errors.ERRORS_BY_CODE.values(), key=lambda error: error.code)


@pytest.mark.parametrize("error_class", ALL, ids=lambda error: error.code)
def test_an_error_survives_the_wire(error_class: type[errors.ServiceError]) -> None:
    """What a service raises is raised in the caller's script, with all that it carries."""
    raised = error_class("what happened", retry_after_s=2, lines=[1])

    caught = errors.error_from_problem(raised.to_problem("request-1"))

    assert type(caught) is error_class
    assert caught.to_problem() == raised.to_problem("request-1")
    assert (caught.request_id, caught.retry_after_s, caught.extra) == ("request-1", 2, {"lines": [1]})


@pytest.mark.parametrize(
    ("status", "general"),
    [
        (404, clients.NotFound),
        (409, errors.Conflict),
        (418, errors.InvalidRequest),
        (500, errors.InternalError),
        (502, clients.ServiceUnavailable),
    ],
)
def test_an_unknown_code_is_the_general_error_of_its_status(status: int, general: type[errors.ServiceError]) -> None:
    """An old client still tells a refusal from an outage."""
    caught = errors.error_from_problem({"code": "from_the_future", "status": status, "detail": "x", "self": 1})
    assert type(caught) is general


def test_an_unknown_code_says_itself_whether_it_is_retryable() -> None:
    """A newer 409 that may be repeated is no refusal for an old client."""
    caught = errors.error_from_problem({"code": "from_the_future", "status": 409, "retryable": True})
    assert not caught.is_refusal
