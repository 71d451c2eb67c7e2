"""The manual page cloned-proxy(1), in the man(7) language, from the same commands, options and examples as `--help`.

`python -m cloned_proxy.cli.start.manual` prints it; `make install` puts it where man(1) looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import typer.main

from cloned_proxy import __version__
from cloned_proxy.cli.start.app import program
from cloned_proxy.cli.start.help_examples import EXAMPLES, aligned

_EXIT: Final = (("0", "done"), ("1", "it failed or was denied"), ("2", "bad usage or bad input"))
_FILES: Final = (
    (".cloned/", "the workspace: policy.yaml, config.yaml, state.db and the keys; the nearest one upwards is used"),
    (".cloned/policy.yaml", "what is allowed, for whom; read again whenever it changes"),
)
_NO_COLOR: Final = ("NO_COLOR", "no colours, whatever the terminal")


def page() -> str:
    """The whole page, without a date: the same commands give the same text."""
    commands = program()
    variables: dict[str, str] = {}
    lines = [f'.TH CLONED-PROXY 1 "" "cloned-proxy {__version__}" "User Commands"']
    lines += [".SH NAME", f"cloned-proxy {_roff('-')} {_roff(_summary(commands))}"]
    lines += [".SH SYNOPSIS", ".B cloned-proxy", r"\fIcommand\fR [\fIoption\fR ...]"]
    lines += [".SH DESCRIPTION", _roff(commands.help or ""), *_examples("")]
    lines += [".SH OPTIONS", *_parameters(commands, typer.Context(commands, info_name="cloned-proxy"), variables)]
    lines.append(".SH COMMANDS")
    for name, command in commands.commands.items():
        lines += _command(command, (name,), variables)
    lines += [".SH ENVIRONMENT", *_terms((*variables.items(), _NO_COLOR))]
    lines += [".SH FILES", *_terms(_FILES), ".SH EXIT STATUS", *_terms(_EXIT)]
    return "\n".join(lines) + "\n"


def _command(command: Any, words: tuple[str, ...], variables: dict[str, str]) -> Iterator[str]:
    """The section of one command, then those of its own commands; adds to `variables` what it reads."""
    context = typer.Context(command, info_name=" ".join(("cloned-proxy", *words)))
    pieces = " ".join(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")
    yield f".SS {_roff(' '.join(words))}"
    yield rf"\fB{_roff(' '.join(words))}\fR {_roff(pieces)}".rstrip()
    yield ".PP"
    yield _roff(" ".join((command.help or "").split()))
    yield from _parameters(command, context, variables)
    yield from _examples(" ".join(words))
    for name, below in getattr(command, "commands", {}).items():
        yield from _command(below, (*words, name), variables)


def _parameters(command: Any, context: Any, variables: dict[str, str]) -> Iterator[str]:
    for parameter in command.params:
        if "--help" in parameter.opts or (record := parameter.get_help_record(context)) is None:
            continue
        yield from _terms([record])
        if parameter.envvar:
            variables.setdefault(parameter.envvar, f"the default of {parameter.opts[-1]}")


def _summary(program: Any) -> str:
    return (program.help or "").partition(":")[0].removeprefix("The ")


def _examples(words: str) -> Iterator[str]:
    if words in EXAMPLES:
        yield from (".PP", ".nf", ".RS", *map(_roff, aligned(EXAMPLES[words])), ".RE", ".fi")


def _terms(terms: Any) -> Iterator[str]:
    for term, meaning in terms:
        yield from (".TP", rf"\fB{_roff(term)}\fR", _roff(" ".join(meaning.split())))


def _roff(text: str) -> str:
    """The text as it is: a backslash, a hyphen, a leading dot or quote would be read as roff's own."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201  this is what it was asked for
