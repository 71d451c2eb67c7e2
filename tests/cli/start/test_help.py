"""Help pages, their examples and the manual page: one source, complete, and true."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from cloned_proxy.cli.start.app import app
from cloned_proxy.cli.start.help_examples import EXAMPLES
from cloned_proxy.cli.start.manual import page

PROGRAM: Any = typer.main.get_command(app)


def commands(command: Any = PROGRAM, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command and group with its words, the program itself first."""
    yield " ".join(words), command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*words, name))


COMMANDS = dict(commands())
LINES = [line for lines in EXAMPLES.values() for line in lines]


def parse(command: Any, name: str, words: list[str], parent: Any = None) -> None:
    """As the program reads a command line, without doing what it says."""
    context = command.make_context(name, words, parent=parent)
    if hasattr(command, "commands") and (rest := [*context._protected_args, *context.args]):
        name, below, rest = command.resolve_command(context, rest)
        parse(below, name, rest, context)


def test_every_command_shows_how_it_is_used() -> None:
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("line", LINES)
def test_an_example_is_a_command_line_that_the_program_takes(line: str) -> None:
    words = shlex.split(line.partition("  # ")[0])
    for mark in ("|", "<", ">"):
        words = words[: words.index(mark)] if mark in words else words
    parse(PROGRAM, "cloned-proxy", words)


@pytest.mark.parametrize("line", ["deny", "allow a.example --for", "serve --workers none", "nonsense", "list extra"])
def test_a_wrong_line_would_be_found(line: str) -> None:
    with pytest.raises(Exception, match=r"Missing|requires|valid|No such command|unexpected"):
        parse(PROGRAM, "cloned-proxy", shlex.split(line))


@pytest.mark.parametrize("words", COMMANDS)
def test_a_help_page_fits_80_columns_and_shows_the_examples(words: str) -> None:
    # Two less than the terminal has, as Click takes where it is not run by a test.
    done = CliRunner().invoke(app, [*words.split(), "--help"], terminal_width=78, prog_name="cloned-proxy")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line for line in lines if line.endswith("...") and not line.startswith("Usage:")] == []
    examples = lines[lines.index("  Examples:") + 1 :]
    assert len(examples) == len(EXAMPLES[words])
    for line, example in zip(examples, EXAMPLES[words], strict=True):
        assert line.startswith(f"    cloned-proxy {example.partition('  # ')[0]}")


def test_the_manual_page_has_every_command_option_and_example() -> None:
    text = page().replace(r"\-", "-")
    for words, command in COMMANDS.items():
        assert not words or f".SS {words}\n" in text
        for parameter in command.params:
            if parameter.hidden:
                continue
            name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar or parameter.name
            assert name in text, (words, name)
    for line in LINES:
        assert f"cloned-proxy {line.partition('  # ')[0]}".replace("\\", r"\e") in text
    for name in ("CLONED_WORKSPACE", "CLONED_POLICY", "NO_COLOR"):
        assert rf"\fB{name}\fR" in text


@pytest.mark.skipif(shutil.which("man") is None, reason="no man here")
def test_man_reads_the_page_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "cloned-proxy.1"
    file.write_text(page())
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", str(file)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    assert "*.example.com" in done.stdout
    assert ".cloned/policy.yaml" in done.stdout, "a line that begins with a dot was taken for a request"
