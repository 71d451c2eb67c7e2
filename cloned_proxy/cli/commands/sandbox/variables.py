"""`--env` and `--env-file`: the variables that a tool is handed by name. No message shows a value."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.spec import check_env

_MAX_BYTES: Final = 1024 * 1024
_SPACE: Final = " \t"


def variables(
    words: tuple[str, ...], files: tuple[Path, ...] = (), *, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What is to be set: the files in their order, then `--env`; the last one of a name counts. Raises CommandError."""
    own = os.environ if environ is None else environ
    found: dict[str, str] = {}
    for file in files:
        found.update(_in_file(file, own))
    for word in words:
        found.update((_variable(word, own, "--env"),))
    return found


def _in_file(file: Path, own: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Docker's format: NAME=VALUE or NAME, one a line, `#` begins a comment line. Quotes are part of the value."""
    for number, line in enumerate(_lines(file), 1):
        text = line.lstrip(_SPACE)
        if text and not text.startswith("#"):
            yield _variable(text, own, f"{file}:{number}:")


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:  # a pipe will do, as in `--env-file <(op inject …)`
            raw = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CommandError(f"--env-file {file}: cannot be read: {error.strerror}") from error
    if len(raw) > _MAX_BYTES:
        raise CommandError(f"--env-file {file}: more than {_MAX_BYTES} bytes; a line for each variable is enough")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise CommandError(f"{file}:{line}: not UTF-8; save the file as UTF-8") from None
    return [line.removesuffix("\r") for line in text.split("\n")]


def _variable(text: str, own: Mapping[str, str], place: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and name.isascii()):
        # The message does not quote the text: where a name is missing, what stands there may be the secret.
        raise CommandError(f"{place} not NAME=VALUE or NAME; a name is made of letters, digits and _")
    if not equals and name not in own:
        raise CommandError(f"{place} {name} is not set in this environment; export it, or write {name}=VALUE")
    value = value if equals else own[name]
    try:
        check_env({name: value})
    except SandboxInputError as error:
        raise CommandError(f"{place} {str(error).removeprefix('--env ')}") from None
    return name, value
