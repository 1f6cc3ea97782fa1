"""The accounts of a deployment: made by a script, let in with certificates, granted what the services need."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pymysql
import pytest

from tests.image.accounts import make_accounts
from tests.processes import free_port
from vv import sql
from vv.databases import SERVICES
from vv.mariadb import Mariadb

PASSWORD = "as-deployed"
# No command of theirs, no such account without a certificate.
DENIED, NOT_LET_IN = 1142, 1045


@pytest.fixture(scope="module")
def server(own_server: None, tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Mariadb]:
    server = Mariadb(tmp_path_factory.mktemp("deployed"), free_port(), certificates)
    with server.running():
        make_accounts(server, tmp_path_factory.mktemp("secrets"), PASSWORD)
        yield server


def url_of(server: Mariadb, account: str, service: str, folder: Path | None = None) -> str:
    """As deploy/make-secrets makes them: a service's has no files, for its settings name them."""
    url = f"mysql://{account}:{PASSWORD}@127.0.0.1:{server.port}/{service}_db"
    if folder is None:
        return url
    return f"{url}?ssl_ca={folder}/ca.crt&ssl_cert={folder}/{account}.crt&ssl_key={folder}/{account}.key"


def start(environment: Mapping[str, str], *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "vv", "migrate", *words],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_who_waits_goes_on_when_somebody_else_has_migrated(server: Mariadb, certificates: Path) -> None:
    """A service's own settings are enough to wait; then its account may do what the service does, and no more."""
    own = {
        "PAYMENT_DATABASE_URL": url_of(server, "payment", "payment"),
        "TLS_CERTIFICATE": f"{certificates}/payment.crt",
        "TLS_KEY": f"{certificates}/payment.key",
        "TLS_CA": f"{certificates}/ca.crt",
    }
    with start(own, "wait", "--service", "payment", "--within", "0") as impatient:
        assert impatient.wait(20) == 3
    with start(own, "wait", "--service", "payment", "--within", "60") as waiting:
        everybodys = {f"{service.upper()}_DATABASE_URL": url_of(server, service, service) for service in SERVICES} | {
            f"{service.upper()}_MIGRATION_DATABASE_URL": url_of(server, "migrate", service, certificates)
            for service in SERVICES
        }
        assert waiting.poll() is None
        with start(everybodys, "apply", "--grant") as migrating:
            said = migrating.communicate(timeout=60)[0]
            assert migrating.returncode == 0, said
        said = waiting.communicate(timeout=20)[0]
        assert waiting.returncode == 0, said
    for service, table in {"order": "order_events", "inventory": "stock_ledger", "payment": "payment_events"}.items():
        with closing(sql.connect(url_of(server, service, service, certificates))) as connection:
            connection.cursor().execute(f"SELECT * FROM {table}")
            with pytest.raises(pymysql.MySQLError) as refused:
                connection.cursor().execute(f"DELETE FROM {table}")
            assert refused.value.args[0] == DENIED


def test_an_account_is_nothing_without_a_certificate(server: Mariadb, certificates: Path) -> None:
    """Whoever has read a password still needs a key."""
    with pytest.raises(pymysql.MySQLError) as refused:
        sql.connect(f"{url_of(server, 'order', 'order')}?ssl_ca={certificates}/ca.crt")
    assert refused.value.args[0] == NOT_LET_IN
