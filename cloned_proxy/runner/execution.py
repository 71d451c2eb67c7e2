"""One run of one container in one slot, from `create` to `remove`, whatever happens in between."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cloned_proxy.runner.containers import sweeper_container, tool_container
from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.errors import SandboxError, ToolLimitError, ToolTimeoutError
from cloned_proxy.runner.files import scratch_use
from cloned_proxy.runner.foreground import kept_going
from cloned_proxy.runner.spec import MIB, SandboxSpec
from cloned_proxy.runner.stream import Attached, Stream, StreamTimeoutError
from cloned_proxy.runner.terminal import gated

_SCRATCH_POLL_SECONDS: Final = 0.25
_SWEEP_SECONDS: Final = 30.0
_SCRATCH_ENTRIES: Final = 100_000

type Output = Callable[[Stream, bytes], None]
"""Takes pieces of output as they come; raises ToolLimitError to end the run."""
type Feed = Callable[[Attached], None]
"""Writes the tool's input and ends it; runs in a thread of its own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    exit_code: int
    out_of_memory: bool
    start_seconds: float
    """From the create request to the started container."""


def execute(engine: Engine, spec: SandboxSpec, *, feed: Feed, output: Output, timeout: float | None) -> Outcome:
    """Runs the container to its end and removes it. Raises SandboxError; the container is gone in any case."""
    began = time.monotonic()
    deadline = None if timeout is None else began + timeout
    # Removing kills as well: the tool has ended when this returns, and with it everything it had started.
    gate = spec.terminal is not None and spec.terminal.known and not engine.sizes_terminals
    wanted = replace(spec, command=gated(spec.command)) if gate else spec
    with engine.container(spec.name, tool_container(wanted)) as container:
        stream = engine.attach(container, terminal=spec.terminal is not None)
        try:
            engine.start(container)
            if spec.terminal is not None and gate:
                stream.resize(spec.terminal)
            started = time.monotonic() - began
            threading.Thread(target=_feed, args=(feed, stream), name="tool-input", daemon=True).start()
            foreground = kept_going(engine, container) if spec.terminal is not None else contextlib.nullcontext()
            with foreground, _scratch_guard(engine, container, Path(spec.scratch), spec.limits.scratch) as guard:
                try:
                    for kind, piece in stream.frames(deadline):
                        output(kind, piece)
                    left = None if deadline is None else max(0.1, deadline - time.monotonic())
                    code = engine.wait(container, left)
                except StreamTimeoutError:
                    code = None
            guard.check()
        finally:
            stream.close()
        if code is None:
            raise ToolTimeoutError(
                f"{spec.tool} did not end within {timeout:g} s and was killed; raise --timeout or "
                "`sandbox: {timeout: …}`"
            )
        return Outcome(code, engine.state(container).oom_killed, started)


def sweep(engine: Engine, spec: SandboxSpec) -> None:
    """Empties the scratch directory of a run that has ended, as the tool's user. Raises EngineError."""
    with engine.container(spec.name, sweeper_container(spec)) as container:
        engine.start(container)
        engine.wait(container, _SWEEP_SECONDS)


def _feed(feed: Feed, stream: Attached) -> None:
    # The tool may end without reading its input: that is its right, and no error.
    with contextlib.suppress(OSError, ValueError):
        feed(stream)


class _ScratchGuard:
    """Ends a tool that fills its scratch directory. A bind mount has no size of its own; each file has (fsize)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._broken = ""
        self.stop = threading.Event()

    def watch(self, engine: Engine, container: str, scratch: Path) -> None:
        while not self.stop.wait(_SCRATCH_POLL_SECONDS):
            size, entries = scratch_use(scratch)
            if size > self._limit or entries > _SCRATCH_ENTRIES:
                self._broken = f"{size // MIB} MiB in {entries} entries"
                with contextlib.suppress(SandboxError):
                    engine.kill(container)
                return

    def check(self) -> None:
        if self._broken:
            raise ToolLimitError(
                f"the tool put {self._broken} into /sandbox; {self._limit // MIB} MiB and "
                f"{_SCRATCH_ENTRIES} entries are allowed: write less"
            )


@contextlib.contextmanager
def _scratch_guard(engine: Engine, container: str, scratch: Path, limit: int) -> Iterator[_ScratchGuard]:
    guard = _ScratchGuard(limit)
    thread = threading.Thread(target=guard.watch, args=(engine, container, scratch), name="scratch", daemon=True)
    thread.start()
    try:
        yield guard
    finally:
        guard.stop.set()
        thread.join()


class Collected:
    """Output kept in memory up to a bound: all of stdout, the end of stderr."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.stdout = bytearray()
        self.stderr = bytearray()

    def __call__(self, kind: Stream, piece: bytes) -> None:
        if kind is Stream.STDERR:
            self.stderr += piece
            del self.stderr[: -self._limit]
            return
        self.stdout += piece
        if len(self.stdout) > self._limit:
            raise ToolLimitError(
                f"the tool printed more than {self._limit // MIB} MiB to stdout; put large results into /sandbox"
            )
