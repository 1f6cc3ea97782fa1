"""The Dockerfile, as far as ours goes: what it does not use is refused."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass
class Step:
    """COPY or RUN, with the environment that holds where it stands."""

    kind: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str


@dataclass
class Stage:
    """What a FROM begins."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0"
    ports: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health_check: list[str] = field(default_factory=list)


def read(path: Path) -> list[Stage]:
    """The stages. ``ValueError`` for an instruction that is not known here."""
    stages: list[Stage] = []
    arguments: dict[str, str] = {}
    for keyword, rest in _instructions(path.read_text(encoding="utf-8")):
        if keyword == "FROM":
            base, _, name = _filled(rest, arguments).partition(" AS ")
            stages.append(Stage(name, base))
        elif keyword == "ARG":
            name, _, default = rest.partition("=")
            arguments.setdefault(name, default)
        else:
            _take(stages[-1], keyword, _filled(rest, arguments) if keyword == "LABEL" else rest)
    return stages


def _take(stage: Stage, keyword: str, rest: str) -> None:
    match keyword:
        case "ENV":
            stage.environment |= _pairs(rest)
        case "LABEL":
            stage.labels |= _pairs(rest)
        case "WORKDIR":
            stage.folder = rest
        case "USER":
            stage.user = rest
        case "EXPOSE":
            stage.ports = rest.split()
        case "ENTRYPOINT":
            stage.entrypoint = _exec_form(rest)
        case "CMD":
            stage.command = _exec_form(rest)
        case "HEALTHCHECK":
            stage.health_check = _exec_form(rest.partition("CMD ")[2])
        case "RUN":
            stage.steps.append(Step("RUN", [rest], dict(stage.environment), stage.folder))
        case "COPY":
            stage.steps.append(Step("COPY", rest.split(), dict(stage.environment), stage.folder))
        case _:
            raise ValueError(f"{keyword} is not known here")


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ").splitlines()
    pairs = [line.split(None, 1) for line in whole]
    return [(keyword, re.sub(r"\s{2,}", " ", rest)) for keyword, rest in pairs]


def _pairs(text: str) -> dict[str, str]:
    return {name: value.strip('"') for name, value in re.findall(r'([\w.]+)=("[^"]*"|\S+)', text)}


def _exec_form(text: str) -> list[str]:
    """A shell in front of the program would be process 1, and keep the signals to itself."""
    words: list[str] = json.loads(text)
    return words


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: values[match[1]], text)
