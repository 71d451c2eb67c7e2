"""The host's port of a local model is always the same one, so only one test suite of a machine has it at a time."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

HOST_PORT: Final = 8080
"""docs/local-model.md: where the model is on the host."""


@pytest.fixture(scope="module")
def host_port() -> Iterator[int]:
    """Waits for other suites. Where another program has the port CI fails, and a person's run skips and says so."""
    with Path(tempfile.gettempdir(), f"cloned-proxy-tests-{HOST_PORT}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with socket.socket() as sock:
            taken = sock.connect_ex(("127.0.0.1", HOST_PORT)) == 0
        if taken:
            message = f"no model: another program listens on 127.0.0.1:{HOST_PORT}, where `llm up` puts its own"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
        yield HOST_PORT
