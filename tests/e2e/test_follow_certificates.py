"""deploy/gateway/follow-certificates.sh, which runs before nginx in its image."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "gateway" / "follow-certificates.sh"
# In place of nginx: it takes the place of whoever ran the script, and says when it is to read its certificates again.
PROGRAM = """
import signal
signal.signal(signal.SIGHUP, lambda *_: print("again", flush=True))
print("up", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_nginx_is_told_once_for_each_change(shell: str, tmp_path: Path) -> None:
    """Also of a file that was not there at first; and not while nothing changes."""
    files = {name: tmp_path / name for name in ("CERTIFICATE", "KEY", "CLIENT_CERTIFICATE", "CLIENT_KEY", "CA")}
    for name, path in files.items():
        if name != "CA":
            path.write_text(f"{name} 1")
    process = subprocess.Popen(
        [shell, "-c", f'{SCRIPT} && exec "$PYTHON" -c "$PROGRAM"'],
        env={
            **os.environ,
            **{f"FRONT_DOOR_{name}": str(path) for name, path in files.items()},
            "FRONT_DOOR_LOOK_EVERY_S": "0.1",
            "PYTHON": sys.executable,
            "PROGRAM": PROGRAM,
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        time.sleep(0.3)
        for path in (files["KEY"], files["CA"]):
            path.write_text("2")
            assert process.stdout.readline() == "again\n"
        time.sleep(0.3)
    finally:
        process.kill()
        process.wait()
        # The script ends by itself when there is nobody left to be told, at the next change.
        files["KEY"].write_text("3")
    assert process.communicate(timeout=10)[0] == ""
