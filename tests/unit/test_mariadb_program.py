"""Which server program runs the private database."""

from pathlib import Path

import pytest

from vv import mariadb_program
from vv.errors import Unavailable


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "mysqld"
    path.touch(0o755)
    return path


def test_the_one_that_is_named(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is installed."""
    monkeypatch.setenv("VV_DATABASE_PROGRAM", str(program))
    assert mariadb_program.find_or_install(print) == program


def test_by_its_path_from_here(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is started in other folders, too."""
    monkeypatch.chdir(program.parent)
    monkeypatch.setenv("VV_DATABASE_PROGRAM", "./mysqld")
    assert mariadb_program.find() == program


def test_one_that_is_named_and_is_none(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another is not taken in its place, nor is one installed."""
    program.chmod(0o644)
    monkeypatch.setenv("VV_DATABASE_PROGRAM", str(program))
    with pytest.raises(Unavailable, match=f"VV_DATABASE_PROGRAM is {program}, and that is no program"):
        mariadb_program.find_or_install(print)


def test_mariadb_before_mysql(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both are installed and none is named."""
    program.with_name("mariadbd").touch(0o755)
    monkeypatch.delenv("VV_DATABASE_PROGRAM", raising=False)
    monkeypatch.setenv("PATH", str(program.parent))
    assert mariadb_program.find() == program.with_name("mariadbd")
