"""Databases of their own for tests that must be alone with them."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.database_server import DatabaseServer
from tests.integration.shop import Shop, shop_at


@pytest.fixture(scope="module")
def urls(database_server: DatabaseServer) -> Iterator[dict[str, str]]:
    """Databases of their own, in which no service takes up what the tests leave unfinished."""
    with database_server.further_stack("alone") as urls:
        yield urls


@pytest.fixture
async def shop(urls: dict[str, str]) -> AsyncIterator[Shop]:
    async with shop_at(urls) as opened:
        yield opened
