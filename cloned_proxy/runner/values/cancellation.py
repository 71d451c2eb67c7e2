"""How a run is ended from outside of it: by another thread, a cancelled task, a runner that closes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from cloned_proxy.runner.values.errors import RunCancelledError, SandboxError


class Cancellation:
    """Ends one run, once. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._error: SandboxError | None = None
        self._kills: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        with self._lock:
            return self._error is not None

    def cancel(self, error: SandboxError | None = None) -> None:
        """Kills what runs; the run then raises `error`, by default RunCancelledError. Takes one call to the engine."""
        with self._lock:
            if self._error is not None:
                return
            self._error = error or RunCancelledError("the run was cancelled; its container has been removed")
            kills = tuple(self._kills)
        for kill in kills:
            with contextlib.suppress(SandboxError):  # the run itself finds out that the engine is away
                kill()

    def check(self) -> None:
        """Raises what `cancel` was given, once it was called."""
        with self._lock:
            if self._error is not None:
                raise self._error

    @contextlib.contextmanager
    def kills(self, kill: Callable[[], None]) -> Iterator[None]:
        """While inside, `cancel` calls `kill`; raises at once if it was called before."""
        with self._lock:
            if self._error is not None:
                raise self._error
            self._kills.append(kill)
        try:
            yield
        finally:
            with self._lock:
                self._kills.remove(kill)
