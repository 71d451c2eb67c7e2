"""The caretaker: a process beside the proxy that removes what a killed runner left, whoever is killed.

`Caretaker` is the serving process's end of it; `main` is the process. It waits for the end of each runner on a pidfd
(pidfd_open(2)), so that it costs nothing meanwhile, and it outlives the proxy: its standard input ends with that, and
it stays until the last runner that it knows of has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from cloned_proxy.runner.owner import is_dead, process_of, remove_leftovers

_SWEEPS: Final = (0.0, 0.5, 1.5, 3.0, 6.0)
"""Seconds after a runner's end. The engine may have been creating a container then, and be done only later."""
_RETRY_SECONDS: Final = 1.0
_PATIENCE: Final = 120.0
"""For an engine that does not answer; the next command removes what is left then."""


class Caretaker:
    """Implements `proxy.holders.Caretaker`: starts the process when somebody is first to be watched."""

    def __init__(self, workspace: Path) -> None:
        self._runs = workspace / "run"
        self._process: subprocess.Popen[bytes] | None = None
        self._watched: dict[str, str] = {}

    def watch(self, owner: str, engine: str) -> None:
        if owner not in self._watched:
            self._watched[owner] = engine
            self._tell({"watch": owner, "engine": engine})

    def forget(self, owner: str) -> None:
        if self._watched.pop(owner, None) is not None:
            self._tell({"forget": owner})

    def _tell(self, message: dict[str, str]) -> None:
        try:
            self._write(message)
        except OSError:  # it was killed: the next one is told of everybody
            self._process = None
            for owner, engine in self._watched.items():
                self._write({"watch": owner, "engine": engine})

    def _write(self, message: dict[str, str]) -> None:
        if self._process is None:
            self._process = self._start()
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: what lies in the directory in which somebody typed `serve` is not ours to import.
        words = [sys.executable, "-P", "-m", "cloned_proxy.runner.caretaker", str(self._runs)]
        return subprocess.Popen(  # noqa: S603  this program, with words of our own
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )


class _Rounds:
    """What is watched and what is to be done, in the process."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)
        self._open = True
        self._watched: dict[int, str] = {}
        """By descriptor."""
        self._engines: dict[str, str] = {}
        """Of each owner."""
        self._due: list[tuple[float, str, float]] = []
        """When to look at which engine, and since when that is wanted."""
        self._unread = b""

    def run(self) -> None:
        while self._open or self._watched or self._due:
            wait = max(0.0, min(self._due)[0] - time.monotonic()) * 1000 + 1 if self._due else None
            # What was said comes first: whoever is forgotten has just ended.
            for descriptor, _ in sorted(self._poll.poll(wait)):
                if descriptor == 0:
                    self._listen()
                elif descriptor in self._watched:
                    self._ended(descriptor)
            self._sweep()

    def _listen(self) -> None:
        data = os.read(0, 65_536)
        if not data:
            self._open = False
            self._poll.unregister(0)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "watch" in message:
                self._watch(message["watch"], message["engine"])
            else:
                self._forget(message["forget"])

    def _watch(self, owner: str, engine: str) -> None:
        pid = process_of(owner)
        if pid is None or owner in self._engines:
            return
        self._engines[owner] = engine
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:  # it has ended already
            self._sweep_soon(owner)
            return
        self._watched[descriptor] = owner
        self._poll.register(descriptor, select.POLLIN)
        if is_dead(owner):
            self._ended(descriptor)

    def _forget(self, owner: str) -> None:
        self._engines.pop(owner, None)
        for descriptor, watched in tuple(self._watched.items()):
            if watched == owner:
                self._close(descriptor)

    def _ended(self, descriptor: int) -> None:
        self._sweep_soon(self._watched[descriptor])
        self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._watched[descriptor]
        os.close(descriptor)

    def _sweep_soon(self, owner: str) -> None:
        engine, now = self._engines.pop(owner), time.monotonic()
        self._due += [(now + seconds, engine, now) for seconds in _SWEEPS]

    def _sweep(self) -> None:
        from cloned_proxy.runner.engine import Engine  # noqa: PLC0415  most of these processes never need it
        from cloned_proxy.runner.errors import EngineError  # noqa: PLC0415  as above

        now = time.monotonic()
        due, self._due = [each for each in self._due if each[0] <= now], [each for each in self._due if each[0] > now]
        for host in {engine for _, engine, _ in due}:
            os.environ["DOCKER_HOST"] = host
            try:
                with contextlib.closing(Engine.connect()) as engine:
                    remove_leftovers(engine, self._runs)
            except EngineError:
                wanted = max(since for _, engine, since in due if engine == host)
                if now - wanted < _PATIENCE:
                    self._due.append((now + _RETRY_SECONDS, host, wanted))


def main() -> None:
    """The words: the directory of the workspace's runs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a group's signal ends the others, and then there is something to do
    _Rounds(Path(sys.argv[1])).run()


if __name__ == "__main__":
    main()
