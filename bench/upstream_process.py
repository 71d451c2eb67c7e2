"""The one upstream of all contenders, started and ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.contenders import ContenderError


class UpstreamProcess:
    """A context; gives its ports for plain HTTP and TLS."""

    def __init__(self, directory: Path, address: str = "127.0.0.1") -> None:
        self._log = (directory / "upstream.log").open("wb")
        command = [sys.executable, "-m", "bench.upstream", address]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)

    def __enter__(self) -> tuple[int, int]:
        assert self._process.stdout is not None
        ports = self._process.stdout.readline().split()
        if len(ports) != 2:
            self.__exit__()
            raise ContenderError("the upstream did not start")
        return int(ports[0]), int(ports[1])

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
