"""Databases of their own for tests that must be alone with them."""

import contextlib
from collections.abc import Iterator

import pymysql
import pytest

from common.database_url import parse_database_url
from vv import migrate
from vv.databases import SERVICES
from vv.mariadb import Mariadb


@pytest.fixture(scope="module")
def urls(mariadb: Mariadb) -> Iterator[dict[str, str]]:
    """Databases of their own, in which no service takes up what the tests leave unfinished."""
    urls = {name: mariadb.migration_url(name).replace(f"/{name}_db?", f"/{name}_alone?") for name in SERVICES}
    address = parse_database_url(mariadb.migration_url("order")) | {"db": None}
    with contextlib.closing(pymysql.connect(**address)) as admin, admin.cursor() as cursor:
        for name, url in urls.items():
            cursor.execute(f"CREATE DATABASE {name}_alone")
            migrate.apply(name, url)
        yield urls
        for name in urls:
            cursor.execute(f"DROP DATABASE {name}_alone")
