"""The embedded database: a private MariaDB in the data folder, for this user and this machine only."""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pymysql

from vv import accounts, certs, mariadb_program, process
from vv.errors import Unavailable
from vv.folder import make_private, write_whole
from vv.output import Say, say

# A UNIX socket's path has 108 bytes, the last of which is NUL.
_SOCKET_PATH_BYTES_MAX = 107
# After a kill -9 in the middle of a flash sale, on a slow disk.
START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_READY_INTERVAL_S = 0.03


class Mariadb:
    """The database server of a data folder. Whoever starts it holds the lock of the folder.

    :param folder: the data folder; the server's own files go to ``folder/mariadb``
    :param port: the TCP port on 127.0.0.1; None for none, only the socket
    :param certificates: the folder of certificates without which nobody is let in but through the socket
    """

    def __init__(self, folder: Path, port: int | None = None, certificates: Path | None = None) -> None:
        self.folder = folder.absolute()
        self.port = port
        self._certificates = certificates
        self.socket = _socket_path(self.folder)
        self.log = self.folder / "logs" / "database.log"
        self._data = self.folder / "mariadb"
        # Of its own: a server that starts removes the temporary tables of all servers from a folder that they share.
        self._temporary = self.folder / "tmp"
        self._setup = self.folder / "mariadb-setup.sql"
        self._program: Path | None = None
        self._passwords: dict[str, str] | None = None

    @property
    def exists(self) -> bool:
        """Whether the folder has a database already."""
        return self._data.exists()

    @property
    def passwords(self) -> dict[str, str]:
        if self._passwords is None:
            self._passwords = accounts.read_or_make_passwords(self.folder / "credentials.json")
        return self._passwords

    def prepare(self, say: Say = say) -> None:
        """Do everything that comes before the first start: program, files, accounts. Blocks.

        Raises Unavailable.
        """
        make_private(self.folder)
        make_private(self._temporary)
        self._program = mariadb_program.find_or_install(say)
        if not self._data.exists():
            say(f"Creating the database in {self._data}.")
            _initialise(self._program, self._data, self._temporary)
        if self.socket.parent != self.folder:
            _make_own(self.socket.parent)
        write_whole(self._setup, accounts.setup_sql(self.passwords))

    def command(self) -> list[str]:
        """The command that runs the server in the foreground, once prepared. No password is in it."""
        assert self._program is not None, "prepare() comes first"
        network = ["--bind-address=127.0.0.1", f"--port={self.port}"] if self.port else ["--skip-networking"]
        return [
            *_program_and_user(self._program),
            f"--datadir={self._data}",
            f"--tmpdir={self._temporary}",
            f"--socket={self.socket}",
            f"--pid-file={self.folder / 'mariadb.pid'}",
            # Before the server lets anybody in, on every start.
            f"--init-file={self._setup}",
            *network,
            *self._tls_options(),
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_bin",
            "--default-time-zone=+00:00",
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-buffer-pool-size=512M",
            # MariaDB's name for it, and MySQL's for all of its log.
            "--loose-innodb-log-file-size=128M",
            "--loose-innodb-redo-log-capacity=128M",
            "--max-connections=500",
            "--performance-schema=off",
            "--skip-log-bin",
            # Where Debian's MySQL has it by default there is no folder, and without one it does not start.
            f"--secure-file-priv={self._temporary}",
            # No line for each connection that a service closes. MySQL does not know the first, MariaDB the second.
            "--loose-log-warnings=1",
            "--loose-mysqlx=OFF",
        ]

    def _tls_options(self) -> list[str]:
        if self._certificates is None:
            # Newer servers make up certificates, of which nobody could know whose they are: MariaDB, and MySQL.
            return ["--loose-skip-ssl", "--loose-auto-generate-certs=OFF"]
        certificate, key, ca = certs.files_of(self._certificates, "database")
        return [
            f"--ssl-ca={ca}",
            f"--ssl-cert={certificate}",
            f"--ssl-key={key}",
            "--tls-version=TLSv1.3",
            "--require-secure-transport=ON",
        ]

    def is_ready(self) -> bool:
        """Whether the server lets its root in. Blocks, for a second at most."""
        try:
            # First without PyMySQL, which leaves its socket open when nobody listens.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
            pymysql.connect(**self._root(), connect_timeout=1, read_timeout=1).close()
        except (pymysql.MySQLError, OSError):
            return False
        return True

    def service_url(self, service: str) -> str:
        """The URL for a service, with an account that may only what ``accounts.GRANTS`` says."""
        account = accounts.account_of(service)
        return self._url(account, accounts.database_of(service))

    def migration_url(self, service: str) -> str:
        """The URL of a service's database for root, who may change the schema."""
        return self._url(accounts.ROOT, accounts.database_of(service))

    def grant(self, services: Iterable[str] = tuple(accounts.GRANTS), *, afresh: bool) -> None:
        """Let the services' accounts in; after migrating, for a grant needs its table. Blocks.

        ``afresh`` takes earlier privileges away first: not while services run.
        """
        with contextlib.closing(pymysql.connect(**self._root())) as connection, connection.cursor() as cursor:
            for service in services:
                accounts.grant(cursor, service, afresh=afresh)

    @contextmanager
    def running(self, say: Say = say) -> Iterator[None]:
        """The server for the duration of a block, for work without a stack. Blocks. Raises Unavailable."""
        process.wait_for_leftovers(self.folder, _STOP_TIMEOUT_S, say)
        self.prepare(say)
        log = process.open_log(self.log)
        log_start = os.fstat(log).st_size
        try:
            server = subprocess.Popen(
                process.leashed(self.command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=process.marked(os.environ, self.folder),
                start_new_session=True,
            )
        finally:
            os.close(log)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not self.is_ready():
                if server.poll() is not None or time.monotonic() > deadline:
                    last_lines = process.last_lines(self.log, log_start, 15)
                    raise Unavailable(f"The database did not start; its last lines:\n{last_lines}")
                time.sleep(_READY_INTERVAL_S)
            yield
        finally:
            _end(server)

    def _root(self) -> dict[str, Any]:
        return {"unix_socket": str(self.socket), "user": accounts.ROOT, "password": self.passwords[accounts.ROOT]}

    def _url(self, account: str, database: str) -> str:
        address = f"127.0.0.1:{self.port}" if self.port else "127.0.0.1"
        path = quote(str(self.socket), safe="/")
        return f"mysql://{account}:{self.passwords[account]}@{address}/{database}?unix_socket={path}"


def _initialise(program: Path, data: Path, temporary: Path) -> None:
    """Create the server's files. They appear under their name when they are complete, or not at all."""
    for abandoned in data.parent.glob(f"{data.name}.new-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    half_made = Path(tempfile.mkdtemp(prefix=f"{data.name}.new-", dir=data.parent))
    command = [*_program_and_user(program), f"--datadir={half_made}", f"--tmpdir={temporary}"]
    if _is_mysql(program):
        command, sql = [*command, "--initialize-insecure", "--auto-generate-certs=OFF"], b""
    else:
        # What mariadb-install-db does, except that it creates neither anonymous accounts nor a root without a
        # password; and the script needs a program that mariadb-server-core does not bring.
        command, sql = [*command, "--bootstrap", "--log-warnings=0"], _system_tables(program)
    result = subprocess.run(command, input=sql, capture_output=True, start_new_session=True, check=False)
    if result.returncode != 0:
        shutil.rmtree(half_made, ignore_errors=True)
        raise Unavailable(f"The database could not be created:\n{result.stderr.decode('utf-8', 'replace').strip()}")
    half_made.replace(data)


def _is_mysql(program: Path) -> bool:
    version = subprocess.run([program, "--no-defaults", "--version"], capture_output=True, check=False).stdout
    return b"MariaDB" not in version


def _system_tables(program: Path) -> bytes:
    parts = [b"CREATE DATABASE mysql;\nUSE mysql;\n"]
    share = program.parent.parent / "share"
    for name in ("system_tables", "performance_tables"):
        # Named mysql_* before MariaDB 11, mariadb_* since.
        places = [
            share / folder / f"{brand}_{name}.sql"
            for folder in ("mysql", "mariadb", ".")
            for brand in ("mariadb", "mysql")
        ]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            raise Unavailable(f"{program} is there, but {places[0].name} is not in any of the folders of {share}.")
        parts.append(found.read_bytes())
    return b"\n".join(parts)


def _program_and_user(program: Path) -> list[str]:
    # The server refuses to run as root unless told to.
    return [str(program), "--no-defaults", *(["--user=root"] if os.geteuid() == 0 else [])]


def _socket_path(folder: Path) -> Path:
    """A socket in the folder; where its path would be too long, in a private folder of a fixed short name."""
    path = folder / "mariadb.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"vv-{os.geteuid()}-{digest}" / "mariadb.sock"


def _make_own(folder: Path) -> None:
    """Create a folder in a place where everybody may, or make sure that nobody else did before us."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Unavailable(f"{folder} is not a private folder of this user; remove it, or use another --data-dir.")


def _end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
