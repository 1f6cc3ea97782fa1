"""Bad input gets a 4xx problem document that names the field, never a 500, and changes nothing."""

from collections.abc import Iterator

import pytest

from tests.conftest import log_of
from tests.e2e.conftest import Books
from tests.processes import ServiceProcess, Services


@pytest.fixture(autouse=True)
def _nothing_is_left_to_recovery(books: Books) -> None:
    """What earlier tests left to recovery must not change the books meanwhile."""
    books.settle()


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_logged_as_an_error(services: Services) -> Iterator[None]:
    """By any of the modules, also when another process of pytest runs the next one."""
    before = {service.name: len(errors_of(service)) for service in services.all}
    yield
    for service in services.all:
        assert errors_of(service)[before[service.name] :] == []


def errors_of(service: ServiceProcess) -> list[str]:
    return [line for line in log_of(service.log).splitlines() if '"level": "error"' in line]
