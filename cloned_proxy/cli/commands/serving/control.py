"""The control process as `serve` sees it: a socket bound before anything is announced, and who keeps it alive."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cloned_proxy.control.process import ControlOptions, become, bind_control, keep_running
from cloned_proxy.proxy.serving.options import ServeOptions
from cloned_proxy.proxy.serving.supervisor import Companion
from cloned_proxy.proxy.serving.worker import Ties
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.log import LogFormat


@dataclass(frozen=True, slots=True)
class Control:
    """`listening` None: `--control off`."""

    listening: socket.socket | None
    options: ControlOptions

    @classmethod
    @contextmanager
    def bind(cls, workspace: Workspace, options: ServeOptions, log_format: LogFormat) -> Iterator[Control]:
        """The socket is open while inside. Raises BindError."""
        listening = bind_control(*options.control) if options.control is not None else None
        try:
            yield cls(listening, ControlOptions(workspace.root, options.policy_file, log_format))
        finally:
            if listening is not None:
                listening.close()

    @property
    def address(self) -> tuple[str, int] | None:
        """Where it listens; the port is the real one."""
        if self.listening is None:
            return None
        host, port = self.listening.getsockname()[:2]
        return str(host), int(port)

    async def keep_running(self, proxy: str) -> None:
        """Until cancelled. `proxy` is the `host:port` that clients use."""
        if self.listening is not None:
            await keep_running(self.options, self.listening, proxy)

    def companion(self) -> Companion | None:
        """The same for the supervisor of several workers."""
        listening = self.listening
        if listening is None:
            return None

        def work(proxy: str, ties: Ties) -> None:
            ties.let_signals_through()
            become(self.options, listening, ties.lifeline, proxy)

        return Companion("control", work, listening)
