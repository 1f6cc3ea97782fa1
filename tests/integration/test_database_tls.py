"""Connections to a database that is reached over the network: encrypted, both ends verified, or not there at all."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from common.certificates import Certificates
from common.database import Database
from common.errors import DatabaseUnavailable
from common.telemetry import Metrics
from tests.processes import certificate_of, free_port
from vv import accounts, certs, migrate, sql
from vv.errors import Unavailable
from vv.mariadb import Mariadb

# aiomysql leaves the socket of a failed handshake to the garbage collector, which is to come by in the same test.
leaves_a_socket = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def secured(own_server: None, tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Mariadb]:
    """A database server with a certificate, on a port."""
    server = Mariadb(tmp_path_factory.mktemp("secured"), free_port(), certificates)
    with server.running():
        server.grant([], afresh=False)
        yield server


@pytest.fixture(scope="module")
def plain(own_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mariadb]:
    """A database server that knows nothing of TLS, on a port."""
    server = Mariadb(tmp_path_factory.mktemp("plain"), free_port())
    with server.running():
        yield server


def url_of(server: Mariadb, options: str = "", host: str = "127.0.0.1") -> str:
    account = accounts.account_of("order")
    return f"mysql://{account}:{server.passwords[account]}@{host}:{server.port}/information_schema{options}"


def files(folder: Path, name: str = "order") -> str:
    return f"?ssl_ca={folder}/ca.crt&ssl_cert={folder}/{name}.crt&ssl_key={folder}/{name}.key"


async def cipher(url: str, certificates: Certificates | None = None) -> Any:
    """With what a service's connection is encrypted; empty for nothing."""
    database = Database(
        url,
        Metrics("test"),
        pool_size_max=2,
        pool_wait_s=5,
        lock_wait_s=1,
        transaction_timeout_s=5,
        tls=None if certificates is None else certificates.client,
    )
    async with database:
        found = await database.read(lambda tx: tx.fetch_one("SHOW SESSION STATUS LIKE 'Ssl_cipher'"))
    # aiomysql does not wait for the end of TLS, which must have come when the event loop ends.
    await asyncio.sleep(0.1)
    assert found is not None
    return found[1]


async def test_the_service_encrypts(secured: Mariadb, certificates: Path) -> None:
    """With its own TLS files, and with those that the URL names."""
    own = await cipher(url_of(secured), certificate_of("order", certificates))
    named = await cipher(url_of(secured, files(certificates)))
    assert own == named
    assert own.startswith("TLS_")


async def test_commands_encrypt(secured: Mariadb, certificates: Path) -> None:
    """vv, which migrates and audits, does so with what the URL names."""
    with sql.connect(url_of(secured, files(certificates))) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        assert cursor.fetchone()[1].startswith("TLS_")


async def test_a_server_without_tls_is_not_talked_to(plain: Mariadb, certificates: Path) -> None:
    """Both libraries would go on in plain text, and say nothing."""
    assert await cipher(url_of(plain)) == ""
    with pytest.raises(DatabaseUnavailable):
        await cipher(url_of(plain), certificate_of("order", certificates))
    with pytest.raises(pymysql.OperationalError, match="no TLS"):
        sql.connect(url_of(plain, files(certificates)))
    with pytest.raises(Unavailable, match="no TLS"):
        migrate.status("order", url_of(plain, files(certificates)))


@pytest.mark.parametrize("plugin", [b"mysql_clear_password", b"caching_sha2_password"])
async def test_who_takes_tls_away_gets_nothing(plugin: bytes, certificates: Path) -> None:
    """Somebody on the way who greets as a server without TLS, and asks for the password, hears not a word."""
    heard = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Protocol 10; capabilities without CLIENT_SSL, with CLIENT_PLUGIN_AUTH.
        greeting = b"\x0a8.4.0\0" + bytes(4) + b"12345678\0" + b"\x01\x82\x2d\x02\x00\x08\x00\x15" + bytes(10)
        greeting += b"123456789012\0" + plugin + b"\0"
        writer.write(len(greeting).to_bytes(3, "little") + b"\0" + greeting)
        heard.append(await reader.read(1_000))
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    url = f"mysql://order:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}/d"
    with pytest.raises(DatabaseUnavailable):
        await cipher(url, certificate_of("order", certificates))
    with pytest.raises(pymysql.OperationalError, match="no TLS"):
        await asyncio.to_thread(sql.connect, url + files(certificates))
    server.close()
    await asyncio.sleep(0.1)
    assert heard == [b"", b""]


@leaves_a_socket
async def test_a_server_of_somebody_else_is_not_talked_to(secured: Mariadb, tmp_path: Path) -> None:
    """Its certificate is of another CA."""
    certs.ensure(tmp_path)
    with pytest.raises(DatabaseUnavailable):
        await cipher(url_of(secured), certificate_of("order", tmp_path))
    gc.collect()


@leaves_a_socket
async def test_a_server_under_another_name_is_not_talked_to(secured: Mariadb, certificates: Path) -> None:
    """The certificate must bear the host of the URL."""
    with pytest.raises(DatabaseUnavailable):
        await cipher(url_of(secured, host="127.0.0.2"), certificate_of("order", certificates))
    gc.collect()


async def test_a_socket_needs_no_tls(plain: Mariadb, certificates: Path) -> None:
    """What never leaves this machine goes on as it is."""
    assert await cipher(url_of(plain, f"?unix_socket={plain.socket}"), certificate_of("order", certificates)) == ""


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("?ssl_ca=/gone", "names files that cannot be used"),
        ("?ssl_cert=a&ssl_key=b", "must name ssl_ca"),
        ("?ssl_ca=a&ssl_cert=b", "must name ssl_ca"),
        ("?ssl=true", "has unknown options: ssl"),
    ],
)
def test_a_url_that_names_no_usable_files_is_refused(options: str, problem: str) -> None:
    """Rather than being taken for one without TLS."""
    with pytest.raises(ValueError, match=problem):
        Database(
            "mysql://u:p@h/d" + options,
            Metrics("test"),
            pool_size_max=1,
            pool_wait_s=1,
            lock_wait_s=1,
            transaction_timeout_s=1,
        )
