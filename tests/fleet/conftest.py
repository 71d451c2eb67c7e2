"""A real redis-server on a unix socket of its own, started, killed, frozen and ended by the tests alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

_WAIT_SECONDS = 60.0


def need_redis() -> str:
    """The server's path; without it CI fails, and a person's run skips with the package to install."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        message = "no store: redis-server is missing: apt-get install redis-server"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


class RedisServer:
    """One server in a directory of its own; it listens on a unix socket and, with a port, on loopback."""

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        """`options` are more of the command line, such as `--appendonly yes`."""
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.port = port
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers."""
        self.socket.unlink(missing_ok=True)
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    need_redis(),
                    *("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)),
                    *("--dir", str(self._directory), "--save", "", "--appendonly", "no", *self._options),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            assert self._process.poll() is None, (self._directory / "redis.log").read_text()
            try:
                with self.client() as client:
                    client.ping()
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.01)
            else:
                return

    def client(self) -> redis.Redis:
        """A plain client, not of ours: for looking into the store, and for playing one that lies."""
        return redis.Redis(unix_socket_path=str(self.socket), protocol=2)

    def kill(self) -> None:
        """Ends it at once, with all that it had in memory."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(_WAIT_SECONDS)
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def freeze(self) -> None:
        """It takes connections and bytes, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


@pytest.fixture(scope="session")
def redis_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short, since the path of a unix socket may have 107 bytes."""
    return tmp_path_factory.mktemp("r")


@pytest.fixture
def store(redis_directory: Path) -> Iterator[RedisServer]:
    """A server that answers and knows nothing yet. Starting one takes about 20 ms."""
    directory = redis_directory / f"{time.monotonic_ns():x}"
    directory.mkdir()
    server = RedisServer(directory)
    server.start()
    yield server
    server.kill()
