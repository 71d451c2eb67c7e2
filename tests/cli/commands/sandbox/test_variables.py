"""`--env` and `--env-file`: what a tool is handed by name, and messages that show no value."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cloned_proxy.cli.commands.sandbox.variables import variables
from cloned_proxy.cli.show.errors import CommandError

OWN = {"TOKEN": "hunter2", "EMPTY": ""}


def test_a_name_takes_over_this_environments_value() -> None:
    assert variables(("TOKEN", "EMPTY", "A=b=c"), environ=OWN) == {"TOKEN": "hunter2", "EMPTY": "", "A": "b=c"}


def test_a_file_is_read_as_docker_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "tool.env"
    file.write_bytes(b'\xef\xbb\xbfA=1\r\n\n# a comment = none\n  B= two \nQ="quoted" # kept\nTOKEN\nA=2\nE=\n')
    found = variables(("B=from the line",), (file,), environ=OWN)
    assert found == {"A": "2", "B": "from the line", "Q": '"quoted" # kept', "TOKEN": "hunter2", "E": ""}


def test_a_later_file_wins_and_a_pipe_is_a_file(tmp_path: Path) -> None:
    first, pipe = tmp_path / "first", tmp_path / "pipe"
    first.write_text("A=1\nB=1\n")
    os.mkfifo(pipe)
    writing = threading.Thread(target=pipe.write_text, args=("B=2\n",))
    writing.start()
    assert variables((), (first, pipe), environ={}) == {"A": "1", "B": "2"}
    writing.join()


BAD = [
    ("a name that is not set", "A=1\nMISSING\n", r"tool\.env:2: MISSING is not set in this environment"),
    ("a secret without a name", "sk-hunter2\n", r"tool\.env:1: not NAME=VALUE or NAME"),
    ("a secret with = in it", "\nsk-hunter2==\n", r"tool\.env:2: not NAME=VALUE or NAME"),
    ("a space in the name", "A B=hunter2\n", r"tool\.env:1: not NAME=VALUE or NAME"),
    ("no name", "=hunter2\n", r"tool\.env:1: not NAME=VALUE or NAME"),
    ("the sandbox's own", "A=1\n\nHTTPS_PROXY=hunter2\n", r"tool\.env:3: HTTPS_PROXY is set by the sandbox itself"),
    ("a NUL", "A=hunter2\0\n", r"tool\.env:1: 'A' is not NAME=VALUE"),
]


@pytest.mark.parametrize(("text", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_wrong_is_named_by_its_line_and_never_by_its_value(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "tool.env"
    file.write_text(text)
    with pytest.raises(CommandError, match=message) as caught:
        variables((), (file,), environ={})
    assert "hunter2" not in str(caught.value)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"--env-file .*missing: cannot be read: No such file"):
        variables((), (tmp_path / "missing",))
    (tmp_path / "latin").write_bytes(b"A=1\nB=\xe4\n")
    with pytest.raises(CommandError, match="latin:2: not UTF-8"):
        variables((), (tmp_path / "latin",))
    (tmp_path / "big").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(CommandError, match="more than 1048576 bytes"):
        variables((), (tmp_path / "big",))
