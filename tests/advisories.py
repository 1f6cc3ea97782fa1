"""What `make advisories` does: look each pinned dependency up in OSV, a database of advisories.

Not in that of PyPI: asked through a mirror it knows no package, and pip-audit takes that for good news.
"""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

_REQUIREMENTS = Path(__file__).parents[1] / "requirements"
_OSV = "https://api.osv.dev/v1/query"
_REACHED_WITHIN_S = 10.0


def main() -> int:
    """0: no advisory is known, or no database can be reached; 1: there is one, or REQUIRE_ADVISORIES is set and no
    database can be reached. OSV_URL names a mirror."""
    url = os.environ.get("OSV_URL") or _OSV
    reason = why_not_reached(url)
    if reason is not None:
        is_required = os.environ.get("REQUIRE_ADVISORIES", "") not in ("", "0")
        sys.stderr.write(f"Dependencies were not audited: no database of advisories at {url} ({reason}).\n")
        return int(is_required)
    files = [f"--requirement={file}" for file in sorted(_REQUIREMENTS.glob("*.txt"))]
    # The files are complete, and pip checks their hashes when it installs them.
    pip_audit = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner=off"]
    command = [*pip_audit, "--vulnerability-service=osv", f"--osv-url={url}", *files]
    return subprocess.run(command, check=False).returncode


def why_not_reached(url: str) -> str | None:
    """``None`` if a database answers there. Blocks."""
    question = {"package": {"name": "vv-ecommerce", "ecosystem": "PyPI"}, "version": "0"}
    request = urllib.request.Request(url, json.dumps(question).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_REACHED_WITHIN_S) as reply:
            json.load(reply)
    except (urllib.error.URLError, OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


if __name__ == "__main__":
    sys.exit(main())
