"""Many seeds, each in a process and a folder of its own, so that one that hangs or dies takes no other with it."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.faults.harness.plan import Plan
from tests.faults.harness.result import Result
from tests.faults.harness.violation import Violation

CHECKOUT = Path(__file__).parents[3]
# What a run may take beyond the time in which faults are inflicted, until it counts as hanging.
_OVERHEAD_S = 240.0
# In place of the name of an invariant: it was not judged.
HARNESS_FAILED = "harness_failed"


def play_apart(plan: Plan, checkout: Path = CHECKOUT, environment: Mapping[str, str] | None = None) -> Result:
    """Play a plan with the code of ``checkout``. Its folder is removed when nothing was found. Blocks.

    A run that hangs, or that the harness could not finish, is a violation.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"vv-faults-{plan.seed}-"))
    found = folder / "result.json"
    command = [sys.executable, "-m", "tests.faults.harness", *plan.arguments, "--folder", str(folder / "run")]
    with (folder / "harness.log").open("wb") as log:
        child = subprocess.Popen(
            [*command, "--json", str(found)], cwd=checkout, env=environment, stdout=log, stderr=log
        )
        problem = HARNESS_FAILED
        try:
            child.wait(plan.seconds + _OVERHEAD_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            problem = "the_run_ends"
        except BaseException:
            child.terminate()
            child.wait(30)
            raise
    result = Result.load(found) if found.exists() else _no_result(plan, problem, folder / "harness.log")
    if result.is_clean:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        result.folder = str(folder)
    return result


def _no_result(plan: Plan, problem: str, log: Path) -> Result:
    last_lines = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])
    violation = Violation(problem, f"seed {plan.seed}", "left no result", last_lines)
    return Result(plan.seed, plan.command, violations=[violation])
