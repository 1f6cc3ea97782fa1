"""Databases of their own for tests that must be alone with them."""

from collections.abc import Iterator

import pytest

from tests.database_server import DatabaseServer


@pytest.fixture(scope="module")
def urls(database_server: DatabaseServer) -> Iterator[dict[str, str]]:
    """Databases of their own, in which no service takes up what the tests leave unfinished."""
    with database_server.further_stack("alone") as urls:
        yield urls
