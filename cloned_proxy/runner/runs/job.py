"""What is asked of a runner and what comes back, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloned_proxy.runner.docker.stream import OutputStream
from cloned_proxy.runner.images.tool_program import ToolProgram
from cloned_proxy.runner.project.view import ProjectWish
from cloned_proxy.runner.runs.execution import Outcome, Output
from cloned_proxy.runner.values.spec import Mount
from cloned_proxy.runner.values.terminal import TerminalSize

if TYPE_CHECKING:
    from cloned_proxy.runner.project.aftermath import Report

DEFAULT_TIMEOUT: Final = 120.0
GRACE_SECONDS: Final = 2.0
"""Seconds that a session has to end when its stdin has been closed, as many as the MCP SDK gives a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to run: a command in an image, with what was explicitly added to it."""

    tool: str
    program: ToolProgram
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    project: ProjectWish = field(default_factory=ProjectWish)
    report: Report | None = None
    """Is called after the run with what became of each directory that the tool could write."""
    every_change: bool = False
    """The report says all that changed, with differences of text."""
    home: bool = False
    """Whether the tool's home is kept; else it is in memory and ends with the run."""
    timeout: float | None = DEFAULT_TIMEOUT
    terminal: TerminalSize | None = None
    """The size of the command's terminal; None: three streams and no terminal."""
    dry_run: bool = False
    """Marks the run's id, and with it every audit entry, with `dry-`."""
    keep: Callable[[Path, Outcome], None] | None = None
    """Called after the tool has ended and before its scratch directory is removed; what it raises ends the run."""
    begun: Callable[[str], None] | None = None
    """Called with the run's id, as the log has it, before anything of it starts."""


type Watch = Callable[[bytes], None]
"""Takes what a tool prints, piece by piece, while it runs."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    output: Any
    """The worker's `output`."""
    stderr: str
    seconds: float
    start_seconds: float
    run: str
    files: Mapping[str, bytes]
    """The files of /sandbox that were asked for."""


def watched(output: Output, watch: Watch | None) -> Output:
    """`output`, with `watch` beside it for what comes on stderr: a worker keeps stdout for its answer."""
    if watch is None:
        return output

    def both(kind: OutputStream, piece: bytes) -> None:
        output(kind, piece)
        if kind is OutputStream.STDERR:
            watch(piece)

    return both
