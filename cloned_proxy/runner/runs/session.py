"""A sandboxed process to talk with: its streams for an event loop, its end whatever happens to the caller."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

from cloned_proxy.runner.docker.stream import Attached, OutputStream
from cloned_proxy.runner.runs.byte_streams import SocketReceiver, SocketSender
from cloned_proxy.runner.runs.crew import Crew, Hand
from cloned_proxy.runner.runs.execution import Outcome
from cloned_proxy.runner.runs.job import Job, Watch
from cloned_proxy.runner.runs.message_streams import MessageReader, MessageWriter
from cloned_proxy.runner.values.errors import RunCancelledError, SandboxError

_CHUNK: Final = 65_536
_STDERR_KEPT: Final = 65_536

type Run = Callable[..., tuple[str, Outcome]]
"""`DockerContainerRunner.run`."""


class Session:
    """One running command, for one event loop. Its streams are AnyIO's; asyncio's tasks use them as they are.

    Nothing is kept in memory but what the kernel holds between the two ends (some hundred KiB): a command whose output
    nobody reads waits, and so does whoever writes to a command that does not read.
    """

    def __init__(self, hand: Hand[Outcome], wire: _Wire, near: socket.socket) -> None:
        self._hand = hand
        self._wire = wire
        self.stdin: Final = SocketSender(near)
        self.stdout: Final = SocketReceiver(near)

    @property
    def stderr(self) -> bytes:
        """The last 64 KiB that the command printed there."""
        return bytes(self._wire.stderr)

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and when it was killed."""
        try:
            return self._hand.result().exit_code if self._hand.ended else None
        except SandboxError:
            return None

    async def wait(self) -> int:
        """The exit code, as soon as the command has ended. Raises the SandboxError that ended it instead."""
        await self._hand.wait()
        return self._hand.result().exit_code

    def kill(self) -> None:
        """Kills the container at once, without waiting for that; `wait` then raises RunCancelledError."""
        self._hand.cancel()

    def mcp(self) -> tuple[MessageReader, MessageWriter]:
        """The two streams of the MCP SDK's client: `ClientSession(*session.mcp())`.

        Raises ImportError without the SDK (1.x or 2.x), which nothing else here needs.
        """
        return MessageReader(self.stdout, too_long=self._hand.cancel), MessageWriter(self.stdin)

    def ending(self) -> str:
        """How the command ended, for whoever finds its streams closed."""
        try:
            code = self._hand.result().exit_code
        except SandboxError as error:
            return str(error)
        said = self.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return f"the command ended with exit code {code}; the last line on its stderr: {said or 'none'}"


@asynccontextmanager
async def open_session(crew: Crew, run: Run, job: Job, *, watch: Watch | None, grace: float) -> AsyncIterator[Session]:
    """The session of one job, as `Calls.session` describes it. Raises SandboxError."""
    near, far = socket.socketpair()
    near.setblocking(False)
    wire = _Wire(far, watch)

    def work(hand: Hand[Outcome]) -> Outcome:
        wire.begin = hand.tell_begin
        try:
            with hand.cancellation.kills(wire.cut):
                _, outcome = run(job, feed=wire.feed, output=wire.output, cancellation=hand.cancellation)
            return outcome
        finally:
            wire.close()

    hand = crew.begin(work)
    session = Session(hand, wire, near)
    try:
        await hand.began()
        if hand.ended:
            hand.result()
        yield session
        await _finish(session, hand, grace)
    except GeneratorExit:  # the block was thrown away with its loop, and with it the right to wait
        hand.cancel()
        raise
    except BaseException as error:
        if hand.ended and isinstance(error, Exception) and not isinstance(error, SandboxError):
            error.add_note(session.ending())
        await hand.end()
        raise
    finally:
        hand.close()
        anyio.notify_closing(near)
        near.close()


async def _finish(session: Session, hand: Hand[Outcome], grace: float) -> None:
    """The end of a block that went well."""
    await session.stdin.aclose()
    await session.stdout.aclose()  # what it still prints must not keep it from ending
    with anyio.move_on_after(grace):
        await hand.wait()
    if not hand.ended:
        await hand.end()
    with contextlib.suppress(RunCancelledError):
        hand.result()


class _Wire:
    """The thread's end of a session: between the container's streams and a socket that the event loop reads."""

    def __init__(self, far: socket.socket, watch: Watch | None) -> None:
        self._far = far
        self._watch = watch
        self.begin: Callable[[], None] = lambda: None
        self.stderr = bytearray()

    def feed(self, stream: Attached) -> None:
        """What the caller writes, to the command."""
        self.begin()
        while data := self._far.recv(_CHUNK):
            stream.write(data)
        stream.end_input()

    def output(self, kind: OutputStream, piece: bytes) -> None:
        """What the command prints, to the caller; waits while the caller does not read."""
        if kind is OutputStream.STDERR:
            self.stderr += piece
            del self.stderr[:-_STDERR_KEPT]
            if self._watch is not None:
                self._watch(piece)
            return
        with contextlib.suppress(ConnectionError):  # the caller wants no more: the command must not wait for it
            self._far.sendall(piece)

    def cut(self) -> None:
        """Ends both directions; whoever waits at the socket goes on."""
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._far.close()
