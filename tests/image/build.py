"""Root file systems in folders: a bare Debian with a Python like that of the base image, and the Dockerfile's steps."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.image.dockerfile import Stage, Step

Say = Callable[[str], None]

# What the base image has beyond a bare Debian: packages, and those that its Python is linked with.
_PACKAGES = (
    "ca-certificates netbase tzdata "
    "libbz2-1.0 libexpat1 libffi8 liblzma5 libncursesw6 libreadline8 libsqlite3-0 libssl3 libuuid1 zlib1g"
)
_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_base(root: Path, python: Path, suite: str, say: Say) -> None:
    """A stand-in for the base image. Blocks. Raises CalledProcessError."""
    say(f"debootstrap {suite}")
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES.split())}", suite, str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    prefix = Path(_asked(python, "import sys; print(sys.base_prefix)"))
    version = _asked(python, "import sys; print('python%d.%d' % sys.version_info[:2])")
    say(f"{version} of this machine")
    local = root / "usr" / "local"
    # As in the base image: no bytecode, no tests of its own.
    unwanted = shutil.ignore_patterns("*.pyc", "__pycache__", "test", "tests", "site-packages")
    shutil.copytree(prefix / "lib" / version, local / "lib" / version, symlinks=True, ignore=unwanted)
    (local / "lib" / version / "site-packages").mkdir()
    for library in (prefix / "lib").glob("libpython*"):
        shutil.copy2(library, local / "lib", follow_symlinks=False)
    shutil.copy2(prefix / "bin" / version, local / "bin", follow_symlinks=True)
    for name in ("python", "python3"):
        (local / "bin" / name).symlink_to(version)
    in_root(root, "ldconfig && python -m ensurepip --default-pip > /dev/null", {})


def download(python: Path, requirements: Path, wheels: Path) -> None:
    """What the Dockerfile's first step fetches: the root has no network. Blocks. Raises CalledProcessError."""
    command = [str(python), "-m", "pip", "download", "-qq", "--require-hashes", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(wheels), "--requirement", str(requirements)], check=True)


def build(stages: list[Stage], base: Path, roots: Path, context: Path, wheels: Path, say: Say) -> Path:
    """Carry out the stages in order, each from the base, and give the root of the last one. Blocks.

    Raises CalledProcessError.
    """
    root = base
    for stage in stages:
        root = roots / stage.name
        say(f"FROM {stage.base} ({root.name})")
        subprocess.run(["cp", "-a", str(base), str(root)], check=True)
        for step in stage.steps:
            say(f"{step.kind} {' '.join(step.arguments)}"[:110])
            if step.kind == "COPY":
                _copy(step, root, roots, context)
            else:
                _run(step, root, wheels)
    return root


def in_root(root: Path, command: str, environment: Mapping[str, str], folder: str = "/") -> None:
    """Run a shell command in a root, as root. Blocks. Raises CalledProcessError."""
    subprocess.run(
        ["chroot", str(root), "/bin/sh", "-ec", f"cd {folder}; {command}"],
        env={"PATH": _PATH, **environment},
        check=True,
    )


def _copy(step: Step, root: Path, roots: Path, context: Path) -> None:
    """Folders go into the target; files, too, if it is a folder: ours never have another name there."""
    options = [word for word in step.arguments if word.startswith("--")]
    *sources, target = [word for word in step.arguments if word not in options]
    place = root / os.path.normpath(Path(step.folder) / target).lstrip("/")
    origin = roots / options[0].removeprefix("--from=") if options else context
    for source in sources:
        found = origin / source.lstrip("/")
        if found.is_dir():
            shutil.copytree(found, place, symlinks=True, ignore=_bytecode_of(options), dirs_exist_ok=True)
        else:
            assert target.endswith("/"), "a folder"
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy2(found, place)


def _bytecode_of(options: list[str]) -> Callable[[str, list[str]], set[str]]:
    """Bytecode stays behind in our folder (.dockerignore), not in another stage."""
    return shutil.ignore_patterns(*([] if options else ["__pycache__"]))


def _run(step: Step, root: Path, wheels: Path) -> None:
    [command] = step.arguments
    place = root / "wheels-of-this-machine"
    shutil.copytree(wheels, place, dirs_exist_ok=True)
    # In place of the network. What a step installs with --no-index says so itself.
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"/{place.name}"}
    try:
        in_root(root, command, {**step.environment, **offline}, step.folder)
    finally:
        shutil.rmtree(place)


def _asked(python: Path, code: str) -> str:
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()
