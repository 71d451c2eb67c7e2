"""What `llm` does: the model's container, the relay process, and the words about them."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import typer

from cloned_proxy.cli.errors import FAILED, CommandError, say
from cloned_proxy.cli.output import put, put_json
from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.errors import SandboxError, SandboxInputError
from cloned_proxy.runner.llm import (
    CONTAINER,
    PORT,
    LlmState,
    exists,
    forget_state,
    read_state,
    start_model,
    stop_model,
    write_state,
)
from cloned_proxy.runner.netns import Namespace, start_time
from cloned_proxy.store.workspace import Workspace

_BASE: Final = f"http://localhost:{PORT}/v1"
_HEALTH: Final = ("/readyz", "/health")
"""Today's images, and older ones."""
_STOP_SECONDS: Final = 5.0
_OK: Final = 200


def bring_up(directory: Path | None, models: Path | None, wait: float) -> None:
    """Raises CommandError; then nothing runs."""
    workspace = Workspace.find(directory)
    workspace.create()
    place = (models or workspace.root.parent / "models").absolute()
    with _engine() as engine:
        if exists(engine):
            raise SandboxInputError(f"{CONTAINER} is there already: `cloned-proxy llm status`, or `llm down` first")
        listening = _listen()
        with listening:
            holder, namespace = start_model(engine, place, os.environ)
            try:
                process = _start_relay(listening, namespace)
            finally:
                namespace.close()
        state = LlmState(CONTAINER, holder, process.pid, start_time(process.pid))
        write_state(workspace.root, state)
        try:
            _wait_ready(engine, wait)
        except BaseException:
            _end(engine, workspace.root, state)
            raise
    say(f"the model runs sealed; for a tool, allow it: cloned-proxy allow 127.0.0.1:{PORT} --tool TOOL")
    put(f"LLM_API_BASE={_BASE}")


def take_down(directory: Path | None) -> None:
    """Removes what `up` made. Raises CommandError."""
    root = Workspace.find(directory).root
    with _engine() as engine:
        if not _end(engine, root, read_state(root)):
            say("there was no model to stop")


def show_status(directory: Path | None, *, as_json: bool) -> None:
    """Exit 1 when the model does not answer."""
    root = Workspace.find(directory).root
    with _engine() as engine:
        state = read_state(root)
        there = exists(engine)
        running = there and engine.state(CONTAINER).running
    relay = state is not None and state.relay_alive
    healthy = relay and _healthy()
    if as_json:
        put_json({"container": running, "relay": relay, "healthy": healthy, "base": _BASE})
    else:
        put(f"container {'running' if running else 'ended' if there else 'none'}")
        put(f"relay     {'running' if relay else 'none'}")
        put(f"health    {'ok, ' + _BASE if healthy else 'no answer; start it with `cloned-proxy llm up`'}")
    if not healthy:
        raise typer.Exit(FAILED)


def _listen() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", PORT))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise SandboxError(
            f"127.0.0.1:{PORT} is taken ({error.strerror}): stop what listens there, perhaps the Compose variant"
        ) from error
    return sock


def _start_relay(listening: socket.socket, namespace: Namespace) -> subprocess.Popen[bytes]:
    descriptors = (listening.fileno(), namespace.descriptor)
    words = f"from cloned_proxy.runner.llm_relay import main; main({descriptors[0]}, {descriptors[1]}, {PORT})"
    return subprocess.Popen(  # noqa: S603  this program, with numbers of our own
        [sys.executable, "-P", "-c", words],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait_ready(engine: Engine, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _healthy():
        state = engine.state(CONTAINER)
        if not state.running:
            raise SandboxError(f"the model ended with {state.exit_code}: {engine.last_words(CONTAINER)}")
        if time.monotonic() > deadline:
            raise SandboxError(f"the model was not ready within {seconds:g} s; raise --wait")
        time.sleep(0.2)


def _healthy() -> bool:
    for path in _HEALTH:
        link = http.client.HTTPConnection("127.0.0.1", PORT, timeout=2)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(link):
            link.request("GET", path)
            if link.getresponse().status == _OK:
                return True
    return False


def _end(engine: Engine, root: Path, state: LlmState | None) -> bool:
    if state is not None and state.relay_alive:
        os.kill(state.relay_pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while state.relay_alive and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(state.relay_pid, os.WNOHANG)  # ours, when `up` itself gives up
            time.sleep(0.02)
    found = stop_model(engine, state)
    forget_state(root)
    return found


@contextlib.contextmanager
def _engine() -> Iterator[Engine]:
    """The engine, and every error of the runner as one line for a person."""
    try:
        with contextlib.closing(Engine.connect()) as engine:
            yield engine
    except SandboxInputError as error:
        raise CommandError(str(error)) from error
    except SandboxError as error:
        raise CommandError(str(error), code=FAILED) from error
