"""A proxy for the duration of one command, when none serves the workspace."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from cloned_proxy.runner.errors import ProxyLinkError
from cloned_proxy.runner.link import is_served

_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 15.0


@contextlib.contextmanager
def proxy_for(workspace: Path, say: Callable[[str], None], *, policy: Path | None = None) -> Iterator[None]:
    """While inside, a proxy serves the workspace: the one that runs, else one of our own. Raises ProxyLinkError."""
    if is_served(workspace):
        yield
        return
    say(f"no proxy serves {workspace}; starting one for the duration of this command (`cloned-proxy serve` keeps one)")
    # A file, not a pipe: nobody would read the pipe, and a full one would stop the proxy.
    with tempfile.TemporaryFile() as messages:
        process = _start(workspace, policy, messages)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(workspace: Path, policy: Path | None, messages: IO[bytes]) -> subprocess.Popen[bytes]:
    # -P: what lies in the directory in which somebody typed `exec` is not ours to import.
    words = [sys.executable, "-P", "-m", "cloned_proxy", "serve", "--listen", "127.0.0.1:0"]
    words += ["--metrics", "off", "--control", "off"]
    words += ["--workspace", str(workspace), *(["--policy", str(policy)] if policy is not None else [])]
    # A session of its own: Ctrl-C is for the tool; the proxy stays until the tool has ended.
    process = subprocess.Popen(  # noqa: S603  this program, with words of our own
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=messages, start_new_session=True
    )
    deadline = time.monotonic() + _START_SECONDS
    while not is_served(workspace):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            messages.seek(0)
            said = messages.read().decode(errors="replace").strip().splitlines()
            raise ProxyLinkError(f"the proxy did not start: {said[-1] if said else 'no message'}")
        time.sleep(0.05)
    return process
