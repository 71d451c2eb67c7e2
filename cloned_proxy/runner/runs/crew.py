"""Runs in threads of their own, begun, waited for and ended from an event loop.

A thread reports by a socket: a loop of any kind can wait for that, and a loop that has gone holds up no thread. The
threads are daemons; the runner ends them when it closes, and at the latest when the interpreter exits.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from cloned_proxy.runner.values.cancellation import Cancellation
from cloned_proxy.runner.values.errors import RunCancelledError, SandboxError

if TYPE_CHECKING:
    from concurrent.futures import Future

_JOIN_SECONDS: Final = 30.0
"""How long the end of a program waits for the removal of one container."""

type Work[T] = Callable[[Hand[T]], T]
"""One run from its beginning to its end; the hand's `cancellation` ends it."""


class Hand[T]:
    """One run in a thread of its own. What is `async` here is for one event loop."""

    def __init__(self, work: Work[T], *, done: Callable[[Hand[T]], None]) -> None:
        import concurrent.futures  # noqa: PLC0415  long imports, and `exec` waits for nothing in an event loop

        import anyio  # noqa: PLC0415  as above

        self.cancellation: Final = Cancellation()
        self._work = work
        self._done = done
        self._began = False
        self._outcome: Future[T] = concurrent.futures.Future()
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._turn = anyio.Lock()
        self._thread = threading.Thread(target=self._do, name="tool-run", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def ended(self) -> bool:
        return self._outcome.done()

    def tell_begin(self) -> None:
        """For the work itself: what `began` waits for has happened."""
        self._began = True
        self._far.send(b".")

    async def began(self) -> None:
        """Returns when the work has told that it began, or has ended."""
        await self._until(lambda: self._began or self.ended)

    async def wait(self) -> None:
        """Returns when the work has ended. Several tasks may wait."""
        await self._until(lambda: self.ended)

    async def end(self) -> None:
        """Kills what runs and returns when it is gone, even while the task is being cancelled."""
        import anyio  # noqa: PLC0415  as above

        self.cancel()
        with anyio.CancelScope(shield=True):
            await self.wait()

    def cancel(self, error: SandboxError | None = None) -> None:
        """Begins to kill what runs, without waiting for the engine."""
        if not self.ended:
            kill = threading.Thread(target=self.cancellation.cancel, args=(error,), name="tool-kill", daemon=True)
            kill.start()

    def join(self) -> None:
        self._thread.join(_JOIN_SECONDS)

    def result(self) -> T:
        """What the work returned. Raises what it raised."""
        return self._outcome.result()

    def close(self) -> None:
        """Nobody waits any more."""
        self._near.close()

    async def _until(self, reached: Callable[[], bool]) -> None:
        import anyio  # noqa: PLC0415  as above

        async with self._turn:
            while not reached():
                await anyio.wait_readable(self._near)
                with contextlib.suppress(BlockingIOError):
                    self._near.recv(1)

    def _do(self) -> None:
        try:
            result = self._work(self)
        except BaseException as error:  # noqa: BLE001  raised by whoever asks for the result
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(result)
        finally:
            self._far.close()
            self._done(self)


class Crew:
    """The hands of one runner. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hands: set[Hand[Any]] = set()

    def begin[T](self, work: Work[T]) -> Hand[T]:
        """Begins work; `end_all` ends it if nobody did before."""
        hand: Hand[T] = Hand(work, done=self._leave)
        with self._lock:
            self._hands.add(hand)
        hand.start()
        return hand

    async def wait_for[T](self, work: Work[T]) -> T:
        """What the work returns; cancelling the task kills what runs, and returns when it is gone."""
        hand = self.begin(work)
        try:
            await hand.wait()
        except GeneratorExit:  # the coroutine was thrown away, and with it the right to wait
            hand.cancel()
            raise
        except BaseException:
            await hand.end()
            raise
        finally:
            hand.close()
        return hand.result()

    def end_all(self) -> None:
        """Kills whatever runs and returns when it is gone."""
        with self._lock:
            hands = tuple(self._hands)
        for hand in hands:
            hand.cancellation.cancel(RunCancelledError("the runner was closed while the tool ran: it has been killed"))
        for hand in hands:
            hand.join()

    def _leave(self, hand: Hand[Any]) -> None:
        with self._lock:
            self._hands.discard(hand)
