"""The caretaker: a process beside the proxy that removes what a killed runner left, whoever is killed.

`Caretaker` is the serving process's end of it; `main` is the process. It waits for the end of each runner on a pidfd
(pidfd_open(2)), so that it costs nothing meanwhile, and it outlives the proxy: its standard input ends with that, and
it stays until the last runner that it knows of has ended, or has no container any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.slots.owner import is_dead, process_of, remove_leftovers
from cloned_proxy.runner.slots.slot_shelf import SlotShelf
from cloned_proxy.runner.values.errors import EngineError

_SWEEPS: Final = (0.0, 0.5, 1.5, 3.0, 6.0)
"""Seconds after a runner's end. The engine may have been creating a container then, and be done only later."""
_RETRY_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 5.0
"""After the proxy's end: how often it is asked whether there is still something to remove one day."""
_RETURN_SECONDS: Final = 5.0
_STEADY_SECONDS: Final = 1.0
_PATIENCE: Final = 120.0
"""For an engine that does not answer; the next command removes what is left then."""


class Caretaker:
    """Implements `proxy.slots.holders.Caretaker`: starts the process when somebody is first to be watched."""

    def __init__(self, workspace: Path, *, on_command: Callable[[], None] = lambda: None) -> None:
        """`on_command` is called whenever a command comes to be run under a lasting proxy."""
        self._runs = workspace / "run"
        self._on_command = on_command
        self._process: subprocess.Popen[bytes] | None = None
        self._watched: dict[str, str] = {}
        self._ready: dict[str, dict[str, Any]] = {}
        """What it said of each slot that may be lent."""
        self._lent: set[str] = set()
        self._returning: dict[str, asyncio.Future[bool]] = {}
        self._unread = b""
        self._started = 0.0

    def watch(self, owner: str, engine: str) -> None:
        if owner not in self._watched:
            self._watched[owner] = engine
            self._tell({"watch": owner, "engine": engine})

    def forget(self, owner: str) -> None:
        if self._watched.pop(owner, None) is not None:
            self._tell({"forget": owner})

    def prepare(self, engine: str) -> None:
        self._on_command()
        self._tell({"prepare": engine})

    def lend(self, owner: str) -> dict[str, Any] | None:
        if not self._ready:
            return None
        slot_id = next(iter(self._ready))
        slot = self._ready.pop(slot_id)
        self._lent.add(slot_id)
        self._tell({"lend": slot_id, "owner": owner})
        return slot

    async def take_back(self, slot: str) -> bool:
        # Awaited: until its name is changed back, the slot is the borrower's, and would go with it.
        if slot not in self._lent:
            return False
        self._lent.discard(slot)
        returned = self._returning[slot] = asyncio.get_running_loop().create_future()
        self._tell({"back": slot})
        try:
            async with asyncio.timeout(_RETURN_SECONDS):
                return bool(await returned)
        except TimeoutError:
            return False
        finally:
            self._returning.pop(slot, None)

    def _hear(self) -> None:
        """What the process says: which slots are ready."""
        process = self._process
        data = os.read(process.stdout.fileno(), 65_536) if process is not None and process.stdout is not None else b""
        if not data:
            self._lose()
            # The process was killed. One that cannot live is not started again before somebody needs it.
            if time.monotonic() - self._started > _STEADY_SECONDS:
                self._watch_all()
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "slot" in message:
                self._ready[message["slot"]["id"]] = message["slot"]
                self._returned(message["slot"]["id"], well=True)
            else:
                self._ready.pop(message["gone"], None)
                self._returned(message["gone"], well=False)

    def _returned(self, slot: str, *, well: bool) -> None:
        returning = self._returning.get(slot)
        if returning is not None and not returning.done():
            returning.set_result(well)

    def _lose(self) -> None:
        """The process has ended, and what it had ready is somebody else's to remove."""
        process, self._process = self._process, None
        self._ready.clear()
        self._lent.clear()
        for slot in tuple(self._returning):
            self._returned(slot, well=False)
        self._unread = b""
        if process is not None and process.stdout is not None:
            asyncio.get_running_loop().remove_reader(process.stdout.fileno())
            process.stdout.close()
            process.poll()

    def _tell(self, message: dict[str, str]) -> None:
        try:
            self._write(message)
        except OSError:  # it was killed: the next one is told of everybody
            self._lose()
            self._watch_all()

    def _watch_all(self) -> None:
        """Tells a new process of everybody."""
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
        self._started = time.monotonic()
        words = [sys.executable, "-P", "-m", "cloned_proxy.runner.slots.caretaker", str(self._runs)]
        process = subprocess.Popen(  # noqa: S603  this program, with words of our own
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        if process.stdout is not None:
            asyncio.get_running_loop().add_reader(process.stdout.fileno(), self._hear)
        return process


class _Rounds:
    """What is watched and what is to be done, in the process."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)
        self._open = True
        self._watched: dict[int, str] = {}
        """The owners that are watched, by descriptor."""
        self._engines: dict[str, str] = {}
        """The engine of each owner."""
        self._due: list[tuple[float, str, float]] = []
        """When to look at which engine, and since when that is wanted."""
        self._next_look = 0.0
        self._unread = b""
        self._shelf = SlotShelf(runs.parent, _say)
        self._poll.register(self._shelf.wake, select.POLLIN)

    def run(self) -> None:
        while self._open or self._watched or self._due or self._shelf.lent:
            # What was said comes first: whoever is forgotten has just ended.
            for descriptor, _ in sorted(self._poll.poll(self._patience())):
                if descriptor == 0:
                    self._listen()
                elif descriptor == self._shelf.wake:
                    os.eventfd_read(descriptor)
                elif descriptor in self._watched:
                    self._ended(descriptor)
            self._sweep()
            if self._open:
                self._shelf.work()
            elif self._watched and time.monotonic() >= self._next_look:
                self._let_go()

    def _patience(self) -> float | None:
        """Milliseconds until something is due."""
        times = [max(0.0, min(self._due)[0] - time.monotonic())] if self._due else []
        if self._watched and not self._open:
            times.append(max(0.0, self._next_look - time.monotonic()))
        shelf = self._shelf.seconds() if self._open else None
        times += [shelf] if shelf is not None else []
        return min(times) * 1000 + (1 if min(times) else 0) if times else None

    def _listen(self) -> None:
        data = os.read(0, 65_536)
        if not data:
            self._open = False
            self._poll.unregister(0)
            self._shelf.close()
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._do(json.loads(line))

    def _do(self, message: dict[str, str]) -> None:
        match message:
            case {"watch": owner, "engine": engine}:
                self._watch(owner, engine)
            case {"forget": owner}:
                self._forget(owner)
            case {"prepare": engine}:
                os.environ["DOCKER_HOST"] = engine
                self._shelf.want()
            case {"lend": slot, "owner": owner}:
                self._shelf.lend(slot, owner)
            case {"back": slot}:
                self._shelf.take_back(slot)
            case _:
                raise ValueError(f"an unknown message: {message}")

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
        self._shelf.take_from(owner)
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
        self._shelf.take_from(owner)
        engine, now = self._engines.pop(owner), time.monotonic()
        self._due += [(now + seconds, engine, now) for seconds in _SWEEPS]

    def _sweep(self) -> None:
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

    def _let_go(self) -> None:
        """Forgets runners without a container: none begins a run without a proxy, and the next one has a caretaker."""
        self._next_look = time.monotonic() + _LOOK_SECONDS
        for host in set(self._engines.values()):
            os.environ["DOCKER_HOST"] = host
            try:
                with contextlib.closing(Engine.connect()) as engine:
                    busy = {owner for _, owner in engine.owners()}
            except EngineError:
                continue
            for owner in [owner for owner, its in self._engines.items() if its == host and owner not in busy]:
                self._forget(owner)


def _say(message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the proxy has ended
        os.write(1, json.dumps(message).encode() + b"\n")


def main() -> None:
    """The words: the directory of the workspace's runs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a group's signal ends the others, and then there is something to do
    _Rounds(Path(sys.argv[1])).run()


if __name__ == "__main__":
    main()
