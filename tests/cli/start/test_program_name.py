"""Hints are typed by people: what they name is there to be run, from where it was said."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy import program_name
from tests.cli.program import PROGRAM, Workspace

NAME = "cloned-proxy"


def hint(*start: str | Path, path: str, directory: Path) -> str:
    """The command in an error of the program, started by the words `start`."""
    environment = {"PATH": path, "HOME": os.environ["HOME"]}
    done = subprocess.run(
        [*start, "proxy", "--set", "http://a:b@127.0.0.1:81"],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    found = re.search(r"`(.*) token TOOL` mints one$", done.stderr.strip())
    assert found is not None, done.stderr
    return found[1]


def linked(directory: Path) -> Path:
    """The program under another directory's name, as installers link it."""
    directory.mkdir(parents=True)
    link = directory / NAME
    link.symlink_to(PROGRAM)
    return link


def test_on_the_path_it_is_called_by_its_name(tmp_path: Path) -> None:
    link = linked(tmp_path / "bin")
    for path in (str(PROGRAM.parent), f"/nowhere:{link.parent}"):
        assert hint(PROGRAM, path=path, directory=tmp_path) == NAME
        assert hint(sys.executable, "-m", "cloned_proxy", path=path, directory=tmp_path) == NAME


def test_behind_another_program_of_that_name_it_is_called_by_its_path(tmp_path: Path) -> None:
    link = linked(tmp_path / "bin")
    other = tmp_path / "other" / NAME
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert hint(link, path=f"{other.parent}:{link.parent}", directory=Path("/usr")) == str(link)
    other.chmod(0o644)  # a shell passes over what cannot be run
    assert hint(link, path=f"{other.parent}:{link.parent}", directory=Path("/usr")) == NAME


def test_elsewhere_it_is_called_by_a_path_that_can_be_typed(tmp_path: Path) -> None:
    link = linked(tmp_path / "a place" / "bin")
    beside = hint(link, path="/usr/bin:/bin", directory=link.parent)
    near = hint(link, path="/usr/bin:/bin", directory=tmp_path / "a place")
    far = hint(link, path="/usr/bin:/bin", directory=Path("/usr"))
    assert (beside, near, far) == (f"./{NAME}", f"bin/{NAME}", f"'{link}'")
    for command, directory in ((beside, link.parent), (near, tmp_path / "a place"), (far, Path("/usr"))):
        done = subprocess.run(
            ["sh", "-c", f"{command} --version"], cwd=directory, capture_output=True, text=True, timeout=90, check=True
        )
        assert done.stdout.startswith(f"{NAME} ")


def test_serve_says_what_to_type_where_the_name_is_not_enough(workspace: Workspace) -> None:
    workspace.environment["PATH"] = os.defpath
    serving = workspace.serve()
    assert serving.process.stdout is not None
    assert serving.process.stdout.readline().startswith(f"program  {PROGRAM} is what hints call {NAME}")


def test_what_is_sent_and_recorded_names_no_place_of_this_machine(workspace: Workspace) -> None:
    workspace.environment["PATH"] = os.defpath
    serving = workspace.serve()
    answer = serving.get("http://denied.example/")
    assert '"hint":"cloned-proxy ' in answer.body
    assert str(PROGRAM.parent) not in answer.body + str(answer.headers)
    explained = workspace.json("explain", "http://denied.example/", code=1)
    assert explained["hint"].startswith("cloned-proxy ")
    shown = workspace.run("explain", "http://denied.example/").stdout
    assert f"to do   {PROGRAM} allow denied.example" in shown


# The last one stands in a reason phrase, which a program on this machine reads, wherever ours lies.
_PROSE = (
    "cloned-proxy makes it",
    "cloned-proxy that wrote it",
    "cloned-proxy made;",
    ".TH CLONED-PROXY",
    "see cloned-proxy explain",
)


def _texts(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.checkout
def test_every_command_that_a_message_names_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_name, "program_name", lambda: "RUN")
    package = Path(program_name.__file__).parent
    named = [text for file in package.rglob("*.py") for text in _texts(file) if re.search(rf"\b{NAME} [a-z-]", text)]
    assert len(named) > 40, "no message was found"
    left = [text for text in named if re.search(rf"\b{NAME} [a-z-]", program_name.in_this_shell(text))]
    assert [text for text in left if not any(prose in text for prose in _PROSE)] == []


def test_prose_is_left_as_it_is() -> None:
    for text in (
        "use the version of cloned-proxy that wrote it",
        "cloned-proxy: nothing to do",
        "reinstall cloned-proxy",
    ):
        assert program_name.in_this_shell(text) == text


def test_without_a_script_it_is_called_by_its_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    shutil.copy(shutil.which("true") or "/bin/true", bare)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "__main__.py")])
    monkeypatch.setattr(sys, "executable", str(bare))
    program_name.program_name.cache_clear()
    try:
        assert program_name.program_name() == f"{bare} -m cloned_proxy"
    finally:
        program_name.program_name.cache_clear()
