"""What Python code asks of a runner beside `run_tool`: any command with its result, or a process to talk with."""

from __future__ import annotations

import abc
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from cloned_proxy.runner.files.files import read_scratch
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE, ToolProgram
from cloned_proxy.runner.project.place import ProjectAccess
from cloned_proxy.runner.project.view import ProjectWish
from cloned_proxy.runner.runs.crew import Crew
from cloned_proxy.runner.runs.execution import MAX_STDOUT, Collected, Feed, Outcome, Output
from cloned_proxy.runner.runs.job import GRACE_SECONDS, Job, Watch, watched
from cloned_proxy.runner.values.cancellation import Cancellation
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.not_started import NOT_FOUND, never_started
from cloned_proxy.runner.values.spec import Mount, SandboxLimits

if TYPE_CHECKING:
    from cloned_proxy.runner.runs.session import Session


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command ended, and what it printed."""

    exit_code: int
    """128 + N when signal N ended it; 137 with `out_of_memory` when it used more than it may."""
    stdout: bytes
    stderr: bytes
    """The last 8 MiB that the command printed there."""
    out_of_memory: bool
    seconds: float
    """From the call to the end, with the slot that it may have had to wait for."""
    start_seconds: float
    """The part of `seconds` from the create request to the started container."""
    run: str
    """8 hex digits: the run's name in the log."""
    files: Mapping[str, bytes]
    """The files of /sandbox that were asked for, by the name that was asked."""

    @property
    def text(self) -> str:
        """Stdout as UTF-8; what is not is replaced."""
        return self.stdout.decode(errors="replace")


type Access = Literal["ro", "rw", "none"]
"""How a tool sees the project, in the words of `exec --project`."""


class ExecKeywords(TypedDict, total=False):
    """What `exec_async` takes by name: the options of `exec`."""

    image: str | None
    mounts: Sequence[Mount]
    env: Mapping[str, str] | None
    timeout: float | None
    stdin: bytes | str
    files: Sequence[str]
    watch: Watch | None
    project: Access
    user: Literal["me"] | None
    home: bool


class ContainerCalls(abc.ABC):
    """Commands and sessions, on top of `run`."""

    _crew: Crew
    _limits: SandboxLimits
    _timeout: float

    @abc.abstractmethod
    def run(
        self, job: Job, *, feed: Feed, output: Output, cancellation: Cancellation | None = None
    ) -> tuple[str, Outcome]: ...

    @abc.abstractmethod
    def _image_of(self, tool: str) -> str | None: ...

    def exec(
        self,
        tool: str,
        argv: Sequence[str],
        *,
        image: str | None = None,
        mounts: Sequence[Mount] = (),
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        stdin: bytes | str = b"",
        files: Sequence[str] = (),
        watch: Watch | None = None,
        project: Access = "ro",
        user: Literal["me"] | None = None,
        home: bool = False,
        cancellation: Cancellation | None = None,
    ) -> ExecResult:
        """Runs one command under the rules of `tool` and waits for its end; an exit code is a result, no error.

        `argv` is the program and its words, without a shell. `image`, and `timeout` in seconds, are config.yaml's by
        default. `stdin` is all that the command may read; `files` are paths below /sandbox to bring back (each must
        exist). `watch` sees stderr piece by piece, in another thread. `cancellation` is for a thread that wants to end
        the run; Ctrl-C ends it as well.

        `project` "ro" shows it at /workspace, "rw" there and at its own path, writable and as `user` "me", "none" not
        at all. `user` "me" is this process's own user id. `home` keeps the tool's home for its next run.

        Raises SandboxError: SandboxInputError for a program that the image does not have; ToolTimeoutError,
        ToolLimitError (more than 8 MiB on stdout, a full /sandbox) and RunCancelledError mean that the command was
        killed; its container is gone in any case.
        """
        began = time.monotonic()
        data = stdin.encode() if isinstance(stdin, str) else bytes(stdin)
        collected = Collected(MAX_STDOUT)
        brought: dict[str, bytes] = {}

        def keep(scratch: Path, _: Outcome) -> None:
            brought.update((name, read_scratch(scratch, name, limit=self._limits.scratch)) for name in files)

        def feed(stream: Any) -> None:
            stream.write(data)
            stream.end_input()

        seen = _wish(project, user)
        more = {"timeout": timeout or self._timeout, "keep": keep, "project": seen, "home": home}
        job = self._job(tool, argv, image, mounts, env, **more)
        run, outcome = self.run(job, feed=feed, output=watched(collected, watch), cancellation=cancellation)
        if never_started(outcome.exit_code, argv[0], bytes(collected.stderr)):
            what = "no program" if outcome.exit_code == NOT_FOUND else "nothing executable called"
            if "PATH" in job.env and "/" not in argv[0]:
                raise SandboxInputError(
                    f"{what} {argv[0]!r} in the PATH of `env`, which takes the place of the image's own; leave it out"
                )
            raise SandboxInputError(f"the image {job.program.image} has {what} {argv[0]!r}; `image=` names another one")
        return ExecResult(
            exit_code=outcome.exit_code,
            stdout=bytes(collected.stdout),
            stderr=bytes(collected.stderr),
            out_of_memory=outcome.out_of_memory,
            seconds=time.monotonic() - began,
            start_seconds=outcome.start_seconds,
            run=run,
            files=brought,
        )

    async def exec_async(self, tool: str, argv: Sequence[str], **options: Unpack[ExecKeywords]) -> ExecResult:
        """`exec`, with its options, without blocking the event loop.

        Cancelling the task kills the container at once; the task ends when it is gone.
        """
        return await self._crew.wait_for(lambda hand: self.exec(tool, argv, cancellation=hand.cancellation, **options))

    @asynccontextmanager
    async def session(
        self,
        tool: str,
        argv: Sequence[str],
        *,
        image: str | None = None,
        mounts: Sequence[Mount] = (),
        env: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        project: Access = "ro",
        user: Literal["me"] | None = None,
        home: bool = False,
        grace: float = GRACE_SECONDS,
    ) -> AsyncIterator[Session]:
        """A command that goes on running: `stdin` and `stdout` to talk with it, `mcp()` for the MCP SDK.

        Entering waits until its container has started. Leaving the block closes its stdin and gives it `grace` seconds
        to end; an exception or a cancelled task kills it at once. In all cases the container is gone afterwards. The
        options are those of `exec`; there is no limit on its time: `asyncio.timeout` or `anyio.fail_after` set one.

        Raises SandboxError when it cannot start, and at the end of the block when something else than the command or
        the caller ended it (a limit, an engine or a holder that died); an exception of the block goes first, with that
        as its note.
        """
        from cloned_proxy.runner.runs.session import open_session  # noqa: PLC0415  anyio and pydantic, for sessions alone

        seen = _wish(project, user)
        job = self._job(tool, argv, image, mounts, env, timeout=None, keep=None, project=seen, home=home)
        async with open_session(self._crew, self.run, job, watch=watch, grace=grace) as session:
            yield session

    def _job(
        self,
        tool: str,
        argv: Sequence[str],
        image: str | None,
        mounts: Sequence[Mount],
        env: Mapping[str, str] | None,
        **more: Any,
    ) -> Job:
        if isinstance(argv, str | bytes):
            raise SandboxInputError(f'argv is a list of words, as in ["sh", "-c", "…"]; not {argv!r}')
        program = ToolProgram(image or self._image_of(tool) or PYTHON_IMAGE, tuple(argv))
        return Job(tool=tool, program=program, env=env or {}, mounts=tuple(mounts), **more)


def _wish(project: Access, user: Literal["me"] | None) -> ProjectWish:
    access = ProjectAccess(project)
    writable = access is ProjectAccess.READ_WRITE
    return ProjectWish(access=access, own_path=writable, as_caller=user == "me" or writable)
