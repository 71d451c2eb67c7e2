"""The transcript of the README as steps that can be run: `make demo` shows them, a test compares what they print."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
START: Final = "make serve"
"""The step that starts the proxy: not a command for a shell, which would wait for it."""
_STEP: Final = re.compile(
    r"^(?:# (?P<caption>.*)\n)?\$ (?P<command>.*)\n(?P<output>(?:(?!\$ |# .*\n\$ ).*\n)*)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Step:
    caption: str
    command: str
    output: str
    """What the README says it prints."""


def marked(readme: str, name: str) -> str:
    """The fenced block that follows `<!-- name -->`. Raises ValueError when there is none."""
    found = re.search(rf"<!-- {name} -->\n+```[a-z]*\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"README.md has no block marked {name}")
    return found[1]


def steps(transcript: str) -> Iterator[Step]:
    """Each `$` line with the `#` line before it and the output after it."""
    for found in _STEP.finditer(transcript):
        yield Step(found["caption"] or "", found["command"], found["output"])


def in_shell(command: str, *, program: Path, environment: Mapping[str, str], directory: Path) -> str:
    """What a terminal shows of a command; `program` is the one that it calls `cloned-proxy`."""
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],  # noqa: S607  the user's own shell runs what the README shows
        env={**environment, "PATH": path},
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout


def with_ports(text: str, ports: Mapping[str, str]) -> str:
    """`text` with the ports that the README shows replaced by real ones, or the other way round."""
    for old, new in ports.items():
        text = re.sub(rf":{old}\b", f":{new}", text)
    return text
