"""What the exit codes 126, 127 and 153 of a sandboxed command mean, in words, with the fix. Pure.

Shells and the engine's init give the first two to what could not be started: 126 found and not executable, 127 not
found (POSIX.1-2024, XCU 2.8.2). The third is 128 + SIGXFSZ: a file outgrew its limit, setrlimit(2) RLIMIT_FSIZE.
"""

from __future__ import annotations

import signal
from typing import Final

from cloned_proxy.cli.editing.agents import agent_of
from cloned_proxy.runner.docker.stream import OutputStream
from cloned_proxy.runner.runs.execution import Output
from cloned_proxy.runner.runs.job import Job
from cloned_proxy.runner.values.not_started import NOT_EXECUTABLE, NOT_FOUND, complains_of

_KEPT: Final = 600
_FILE_TOO_LARGE: Final = 128 + signal.SIGXFSZ


class LastWords:
    """The end of what a command and its init said."""

    def __init__(self) -> None:
        self._said = b""

    def add(self, piece: bytes) -> None:
        self._said = (self._said + piece[-_KEPT:])[-_KEPT:]

    def listening(self, show: Output) -> Output:
        """`show`, with an ear on what passes."""

        def both(kind: OutputStream, piece: bytes) -> None:
            self.add(piece)
            show(kind, piece)

        return both

    def complain_of(self, word: str) -> bool:
        """Whether the last line says of the word that it could not even be started."""
        return complains_of(word, self._said)


def explained(code: int, job: Job, said: LastWords) -> str | None:
    """One line, or None for an exit code that is the command's own."""
    if code == _FILE_TOO_LARGE:
        return "a file became larger than one file may be in this sandbox: raise `sandbox: {scratch_mib: …}`"
    if code not in (NOT_FOUND, NOT_EXECUTABLE):
        return None
    name, image = job.program.command[0], job.program.image
    if not said.complain_of(name):
        missing = "was not found in" if code == NOT_FOUND else "could not be executed in"
        return f"exit code {code}: something that {name} called {missing} the image {image}"
    return _not_started(code, name, job)


def _not_started(code: int, name: str, job: Job) -> str:
    image = job.program.image
    if "PATH" in job.env and "/" not in name:
        return (
            f"{name} is in no directory of the PATH that this command was given (--env, --env-file), which takes the "
            f"place of the image's own: leave it out, or write {name} with its whole path"
        )
    if code == NOT_EXECUTABLE:
        return (
            f"{name} cannot be executed in the image {image}: `chmod +x` it, or name its interpreter "
            f"(`sh {name}`); nothing in /tmp is executable"
        )
    if "/" in name:
        return (
            f"{name} does not exist in the sandbox, whose programs are those of the image {image}: of the host's "
            "files it sees the project and each --mount"
        )
    if (agent := agent_of(name)) is None:
        return (
            f"the image {image} has no {name}: name an image that has it (--image; docs/sandbox.md, Images, has the "
            "Dockerfile for a package of Debian), or bake it in by `cloned-proxy image build --npm PACKAGE@VERSION` "
            f"or `--pypi PACKAGE==VERSION`, with `--tool {job.tool}`"
        )
    build = " ".join(agent.build_words(job.tool))
    return f"the image {image} has no {name}: bake it in by `{build}`, or name an image that has it (--image)"
