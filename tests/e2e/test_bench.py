"""``vv bench`` as its user sees it: real stacks, real load, and nothing left behind."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Servers, wait_until
from tests.processes import free_port_offset


class Bench:
    """A ``vv bench`` in a data folder, as a child process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        offset = str(free_port_offset())
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vv", "bench", "--data-dir", self.folder, "--port-offset", offset, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self._process

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """The exit code, standard output and standard error."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=100)
        return process.returncode, output, errors

    def left_behind(self) -> list[str]:
        """Processes that work for the data folders, and files in these; locks are there for good."""
        processes = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if str(self.folder).encode() in environ.read_bytes():
                    processes.append(str(environ))
            except OSError:
                continue
        return processes + [str(path) for path in self.folder.rglob("*") if path.is_file() and path.name != "vv.lock"]

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.communicate(timeout=40)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "bench")
    yield made
    made.end()


@pytest.mark.usefixtures("own_server")
@pytest.mark.alone
def test_group_commit_on_and_off_and_the_floor(bench: Bench) -> None:
    """Every run adds up; figures, CPU and memory of each process come out; data folders and processes are gone."""
    code, output, errors = bench.run(
        *("--rounds", "1", "--seconds", "2", "--only", "hot_64_o*", "--only", "floor_64", "--json")
    )
    assert code == 0, errors
    found = json.loads(output)
    runs = {run["measurement"]: run for run in found["runs"]}
    assert list(runs) == ["hot_64_on", "hot_64_off", "floor_64"]
    assert [run["no_result"] for run in runs.values()] == [None] * 3
    assert all(run["per_second"] > 0 for run in runs.values())
    assert runs["hot_64_on"]["cpu_ms"].keys() == {"order", "inventory", "payment", "database", "wrk"}
    assert runs["floor_64"]["cpu_ms"].keys() == {"floor", "wrk"}
    assert all(40 < size < 1_000 for size in runs["hot_64_on"]["memory_mb"].values())
    # All that was on its way at the end is in the books.
    assert 0 <= runs["hot_64_on"]["orders"] - runs["hot_64_on"]["replies"] <= 64
    [figure] = found["figures"]
    assert figure["median"] == pytest.approx(runs["hot_64_on"]["per_second"] / runs["hot_64_off"]["per_second"])
    assert figure["median"] > 1
    assert {"CPU", "Python", "database", "event loop", "load generator"} <= found["machine"].keys()
    assert bench.left_behind() == []


@pytest.mark.usefixtures("own_server")
def test_ctrl_c_stops_everything(bench: Bench) -> None:
    """In the middle of a run: exit code 3, a sentence, and neither stacks nor wrk nor data are left."""
    process = bench.start("--rounds", "1", "--seconds", "60", "--only", "hot_64_on")
    wait_until(lambda: _is_loaded(bench.folder), 60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == 3
    assert errors.endswith("Error: The benchmark was interrupted.\n")
    assert bench.left_behind() == []


def _is_loaded(folder: Path) -> bool:
    """Whether wrk is at work for the folder, with the load that counts."""
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"-d60s" in cmdline.read_bytes() and str(folder).encode() in cmdline.with_name("environ").read_bytes():
                return True
        except OSError:
            continue
    return False


def test_a_server_elsewhere(bench: Bench, servers: Servers) -> None:
    """The stock is created there, and goes down by what was answered; nothing is started, nothing written."""
    code, output, errors = bench.run(
        *("--url", servers.order.url, "--inventory-url", servers.inventory.url),
        *("--clients", "8", "--seconds", "1", "--rounds", "1", "--json"),
    )
    assert code == 0, errors
    found: dict[str, Any] = json.loads(output)
    [run] = found["runs"]
    assert (run["measurement"], run["no_result"]) == ("hot_8", None)
    assert run["replies"] > 10
    assert "The stock went down by" in found["checked"]
    assert not bench.folder.exists()


def test_a_refused_order_is_no_result(bench: Bench, servers: Servers) -> None:
    """Too little stock: exit code 1, and why."""
    sku = servers.new_sku(5)
    code, output, errors = bench.run(
        *("--url", servers.order.url, "--sku", sku, "--clients", "4", "--seconds", "1", "--rounds", "1")
    )
    assert code == 1
    assert "no result" in output
    assert "not every order was answered with success" in errors
    assert "Nothing but the status of the replies was checked" in output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--only", "nothing"), "No measurement is called nothing. There are: hot_64_on"),
        (("--only", "hot_256_full"), "those of full tables need --orders"),
        (("--url", "http://127.0.0.1:1"), "give either --inventory-url"),
        (("--url", "http://127.0.0.1:1", "--sku", "S", "--keep"), "are about stacks of our own"),
        (("--url", "nonsense", "--sku", "S"), "it begins with http:// or https://"),
    ],
)
def test_wrong_usage_is_exit_code_2(bench: Bench, arguments: tuple[str, ...], sentence: str) -> None:
    """Nothing is started, and the sentence says what is wrong."""
    code, _, errors = bench.run(*arguments)
    assert code == 2
    assert sentence in " ".join(errors.split())
    assert not bench.folder.exists()


def test_a_folder_that_is_none_of_ours_is_left_alone(bench: Bench) -> None:
    """Data folders are emptied; what looks like something else is not."""
    (bench.folder / "on").mkdir(parents=True)
    (bench.folder / "on" / "thesis.txt").write_text("years of work")
    code, _, errors = bench.run("--only", "hot_64_on")
    assert code == 3
    assert "is not the data folder of a stack" in errors
    assert [path.name for path in (bench.folder / "on").iterdir()] == ["thesis.txt"]
