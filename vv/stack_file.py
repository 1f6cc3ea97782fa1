"""``stack.json``: where a running stack is. It is there only while everything is up."""

import contextlib
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vv import certs, folder
from vv.errors import Unavailable
from vv.mariadb import Mariadb


def path_in(data_dir: Path) -> Path:
    return data_dir / "stack.json"


def write(
    data_dir: Path,
    urls: Mapping[str, str],
    pids: Mapping[str, int | None],
    mariadb: Mariadb | None,
    gateway_url: str | None,
    *,
    front_door: str | None,
    certificates: Path | None,
) -> None:
    """Write the file whole. What is not there, not ours or not encrypted has nothing to tell: null."""
    database = {"socket": str(mariadb.socket), "port": mariadb.port} if mariadb else None
    document = {
        **urls,
        "pids": {name: pids.get(name) for name in (*urls, "database", *(["front_door"] if front_door else []))},
        "database": database,
        "gateway": gateway_url,
        "front_door": front_door,
        "certificates": str(certificates) if certificates else None,
    }
    folder.write_whole(path_in(data_dir), json.dumps(document, indent=2) + "\n")


def read(data_dir: Path) -> dict[str, Any] | None:
    """The file of the stack that runs in ``data_dir``, or None when none does or it is not ready.

    A file that a killed vv left behind does not count.
    """
    if not path_in(data_dir).exists():
        return None
    try:
        with folder.locked(data_dir):
            return None
    except folder.FolderInUse:
        with contextlib.suppress(FileNotFoundError):
            document: dict[str, Any] = json.loads(path_in(data_dir).read_text(encoding="utf-8"))
            return document
    except Unavailable:
        pass
    return None


def tls_of(stack: Mapping[str, Any], name: str = certs.OPERATOR) -> ssl.SSLContext | None:
    """For calls to the services of a stack, and to its gateway, with a certificate; None when they have no TLS.

    Raises Unavailable.
    """
    folder = stack.get("certificates")
    return certs.tls_of(Path(folder), name) if folder else None
