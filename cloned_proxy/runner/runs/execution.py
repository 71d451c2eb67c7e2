"""One run of one container in one slot, from `create` to `remove`, whatever happens in between."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from cloned_proxy.runner.docker.containers import tool_container
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.docker.stream import Attached, OutputStream, StreamTimeoutError
from cloned_proxy.runner.files.disk import DiskGuard, bounds_of
from cloned_proxy.runner.project.neighbours import check_neighbours
from cloned_proxy.runner.runs.foreground import kept_going
from cloned_proxy.runner.values.cancellation import Cancellation
from cloned_proxy.runner.values.errors import EngineError, SandboxError, ToolLimitError, ToolTimeoutError
from cloned_proxy.runner.values.spec import MIB, SandboxSpec
from cloned_proxy.runner.values.terminal import gated

MAX_STDOUT: Final = 8 * MIB
"""Most bytes of stdout of a run whose output is kept in memory."""

type Output = Callable[[OutputStream, bytes], None]
"""Takes pieces of output as they come; raises ToolLimitError to end the run."""
type Feed = Callable[[Attached], None]
"""Writes the tool's input and ends it; runs in a thread of its own."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A container that waits at its gate (`prepared`), and is removed by whoever made it."""

    container: str
    stream: Attached
    opening: bytes
    """What makes it the run's command (`gate.opening`)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    exit_code: int
    out_of_memory: bool
    start_seconds: float
    """From the create request to the started container."""


def execute(
    engine: Engine,
    spec: SandboxSpec,
    *,
    feed: Feed,
    output: Output,
    timeout: float | None,
    cancellation: Cancellation | None = None,
    ready: Ready | None = None,
) -> Outcome:
    """Runs the container to its end and removes it. Raises SandboxError; the container is gone in any case.

    `ready` is the container of `spec`, and waits for its command; else one is made. It is removed here only if the run
    did not end by itself.
    """
    ending = cancellation or Cancellation()
    ending.check()
    began = time.monotonic()
    deadline = None if timeout is None else began + timeout
    # Removing kills as well: the tool has ended when this returns, and with it everything it had started.
    gate = spec.terminal is not None and spec.terminal.known and not engine.sizes_terminals
    wanted = replace(spec, command=gated(spec.command)) if gate else spec
    with (
        engine.container(spec.name, tool_container(wanted)) if ready is None else _taken(engine, ready) as container,
        ending.kills(lambda: engine.kill(container)),
    ):
        stream = engine.attach(container, terminal=spec.terminal is not None) if ready is None else ready.stream
        try:
            check_neighbours(engine, spec, container)
            if ready is None:
                engine.start(container)
            else:
                _open(ready)
            ending.check()  # a kill before the start found nothing to end
            if spec.terminal is not None and gate:
                stream.resize(spec.terminal)
            started = time.monotonic() - began
            threading.Thread(target=_feed, args=(feed, stream), name="tool-input", daemon=True).start()
            code = _exit_code(engine, spec, container, stream, output=output, deadline=deadline)
        finally:
            stream.close()
        ending.check()
        if code is None:
            raise ToolTimeoutError(
                f"{spec.tool} did not end within {timeout:g} s and was killed; raise --timeout or "
                "`sandbox: {timeout: …}`"
            )
        return Outcome(code, engine.state(container).oom_killed, started)


def _exit_code(
    engine: Engine, spec: SandboxSpec, container: str, stream: Attached, *, output: Output, deadline: float | None
) -> int | None:
    """Passes on what the tool says until it ends; None where it did not end in time. Raises ToolLimitError."""
    foreground = kept_going(engine, container) if spec.terminal is not None else contextlib.nullcontext()
    with foreground, DiskGuard(bounds_of(spec), lambda: _end(engine, container)) as guard:
        code: int | None
        try:
            for kind, piece in stream.frames(deadline):
                output(kind, piece)
            left = None if deadline is None else max(0.1, deadline - time.monotonic())
            code = engine.wait(container, left)
        except StreamTimeoutError:
            code = None
    guard.check()
    return code


@contextlib.contextmanager
def _taken(engine: Engine, ready: Ready) -> Iterator[str]:
    try:
        yield ready.container
    except BaseException:
        engine.discard(ready.container)
        raise


def _open(ready: Ready) -> None:
    try:
        ready.stream.write(ready.opening)
    except OSError as error:
        raise EngineError("the engine broke off the stream to the tool; is it still running?") from error


def _end(engine: Engine, container: str) -> None:
    with contextlib.suppress(SandboxError):
        engine.kill(container)


def _feed(feed: Feed, stream: Attached) -> None:
    # The tool may end without reading its input: that is its right, and no error.
    with contextlib.suppress(OSError, ValueError):
        feed(stream)


class Collected:
    """Output kept in memory up to a bound: all of stdout, the end of stderr."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.stdout = bytearray()
        self.stderr = bytearray()

    def __call__(self, kind: OutputStream, piece: bytes) -> None:
        if kind is OutputStream.STDERR:
            self.stderr += piece
            del self.stderr[: -self._limit]
            return
        self.stdout += piece
        if len(self.stdout) > self._limit:
            raise ToolLimitError(
                f"the tool printed more than {self._limit // MIB} MiB to stdout; put large results into /sandbox"
            )
