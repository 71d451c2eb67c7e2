"""The program at a terminal of a given width: what a person sees, escape sequences and all."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from contextlib import closing, suppress

from tests.cli.program import PROGRAM, Workspace

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def open_terminal(columns: int = 80) -> tuple[int, int]:
    """Descriptors of both ends: the one to read what is shown from, and the one for the program."""
    screen, line = pty.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    return screen, line


def read_all(screen: int) -> str:
    """What is shown until nobody holds the other end."""
    shown = b""
    with closing(os.fdopen(screen, "rb", buffering=0)) as file, suppress(OSError):  # EIO is the end of a terminal
        while data := file.read(65_536):
            shown += data
    return shown.decode().replace("\r\n", "\n")


def at_terminal(workspace: Workspace, *arguments: str, columns: int = 80, env: dict[str, str] | None = None) -> str:
    """What the program shows on its stdout and stderr."""
    screen, line = open_terminal(columns)
    path = f"{PROGRAM.parent}:{workspace.environment['PATH']}"  # so that hints call it by its name
    environment = workspace.environment | {"TERM": "xterm", "PATH": path} | (env or {})
    process = subprocess.Popen(
        [PROGRAM, *arguments], env=environment, cwd=workspace.path.parent, stdin=line, stdout=line, stderr=line
    )
    os.close(line)
    shown = read_all(screen)
    process.wait(30)
    return shown


def plain(text: str) -> str:
    return COLOURS.sub("", text)
