"""The README shows what a terminal shows: its transcript is run, its help text compared, its commands all tested."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import PROGRAM, Origin, Serving, Workspace

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]

_VARIABLE = (
    (re.compile(r"\b[0-9a-f]{24}\b"), "<id>"),
    (re.compile(r"\br-[0-9a-f]{10}\b"), "<rule>"),
    (re.compile(r"\bversion [0-9a-f]{12}\b"), "version <hash>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "<time>"),
    (re.compile(r"\bcli:[^:\s]+"), "cli:<user>"),
    (re.compile(r"in (29m 5\ds|30m)|\b\ds ago"), "<span>"),
    (re.compile(r"^date: .*$", re.MULTILINE | re.IGNORECASE), "<date>"),
    (re.compile(r" {2,}"), "  "),
)


def readme() -> str:
    return (ROOT / "README.md").read_text()


def marked(name: str) -> str:
    """The fenced block that follows `<!-- name -->`."""
    found = re.search(rf"<!-- {name} -->\n+```[a-z]*\n(.*?)^```$", readme(), re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def comparable(text: str) -> list[str]:
    for pattern, instead in _VARIABLE:
        text = pattern.sub(instead, text)
    return [line.rstrip() for line in text.strip().splitlines()]


def steps(transcript: str) -> Iterator[tuple[str, str]]:
    """(command, what it printed) for each `$` line."""
    for step in re.split(r"^\$ ", transcript, flags=re.MULTILINE)[1:]:
        command, _, output = step.partition("\n")
        yield command, output


def in_shell(command: str, workspace: Workspace, ports: dict[str, str]) -> str:
    """The command's output as a terminal interleaves it, with the README's ports in place of the real ones."""
    for shown, real in ports.items():
        command = command.replace(shown, real)
    done = subprocess.run(
        ["bash", "-c", command],
        env=workspace.environment | {"PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"},
        cwd=workspace.path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=30,
        check=False,
    )
    output = done.stdout
    for shown, real in ports.items():
        output = output.replace(real, shown)
    return output.replace(str(workspace.path), ".cloned")


def test_the_transcript_is_what_a_terminal_shows(workspace: Workspace, origin: Origin) -> None:
    serving: Serving = workspace.serve()
    ports = {"8081": str(serving.port), "8083": str(serving.metrics_port), "9000": str(origin.port)}
    shown = list(steps(marked("transcript")))
    assert len(shown) > 5, "the transcript was not found"
    for command, expected in shown:
        if command == "make serve":
            output = "\n".join(serving.banner)
            for name, real in ports.items():
                output = output.replace(real, name)
            output = output.replace(str(workspace.path), ".cloned")
        else:
            output = in_shell(command, workspace, ports)
        told, written = comparable(output), comparable(expected)
        if command.endswith("cloned-proxy log --since 1h"):
            # An edit is recorded by the command, its reload by the proxy: either may come first.
            told, written = sorted(told), sorted(written)
        assert told == written, command


def test_the_help_text_is_the_programs(workspace: Workspace) -> None:
    done = workspace.run("--help", env={"COLUMNS": "100"})
    assert comparable(marked("help")) == comparable(f"$ cloned-proxy --help\n{done.stdout}")


def test_every_command_that_the_readme_names_is_run_by_a_test() -> None:
    named = set(re.findall(r"cloned-proxy ((?:policy|audit|ca) [a-z-]+|[a-z]+)", readme()))
    assert "policy check" in named, "no command was found"
    folders = (ROOT / "tests" / "cli", ROOT / "tests" / "runner")
    tests = "\n".join(path.read_text() for folder in folders for path in folder.glob("test_*.py"))
    missing = [name for name in named if ", ".join(f'"{word}"' for word in name.split()) not in tests]
    # `serve` has a method of its own in the tests, and `HOST` stands for a word in prose.
    assert set(missing) - {"serve"} == set()


def test_the_policy_that_the_readme_shows_is_valid(workspace: Workspace) -> None:
    example = re.search(r"^```yaml\n(.*?)^```$", readme(), re.MULTILINE | re.DOTALL)
    assert example is not None
    workspace.write_policy(example[1])
    assert workspace.run("policy", "check").returncode == 0
