"""What deploy/database/accounts.sh makes, on a MariaDB that is not in its image."""

import os
import subprocess
import sys
from pathlib import Path

from vv.mariadb import Mariadb

_SCRIPT = Path(__file__).parents[2] / "deploy" / "database" / "accounts.sh"
_ACCOUNTS = ("order", "inventory", "payment", "migrate")


def make_accounts(server: Mariadb, secrets: Path, password: str) -> None:
    """Run the script as the MariaDB image does, which gives it a function that runs SQL as root.

    The passwords, all the same, are left in ``secrets``. Blocks. Raises CalledProcessError.
    """
    for name in _ACCOUNTS:
        (secrets / f"database-password-{name}").write_text(password)
    environment = {
        "PYTHON": sys.executable,
        "CLIENT": str(Path(__file__).with_name("sql.py")),
        "VV_PASSWORDS": str(secrets),
        "SOCKET": str(server.socket),
        "ROOT_PASSWORD": server.passwords["root"],
    }
    command = f'docker_process_sql() {{ "$PYTHON" "$CLIENT"; }}; . {_SCRIPT}'
    subprocess.run(["bash", "-eo", "pipefail", "-c", command], env={**os.environ, **environment}, check=True)
