"""A program whose wall clock a test sets while it runs: native code in it reads the same clock."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

import pytest

_SOURCE: Final = Path(__file__).with_suffix(".c")


class WallClock:
    """The clock of all programs that are started through `command`; that of the machine stays."""

    def __init__(self, directory: Path) -> None:
        """Skips the test where there is no C compiler; in CI that is an error."""
        compiler = shutil.which("cc")
        if compiler is None:
            assert not os.environ.get("CI"), "no C compiler: apt-get install gcc libc6-dev"
            pytest.skip("no C compiler: apt-get install gcc libc6-dev")
        self._library: Final = directory / "wall_clock.so"
        self._ahead: Final = directory / "ahead"
        self.set(0)
        line = [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(self._library), str(_SOURCE)]
        subprocess.run(line, check=True, timeout=60)

    def set(self, ahead: int) -> None:
        """So many seconds ahead of the machine's clock, or behind it, from now on."""
        with self._ahead.open("r+b" if self._ahead.exists() else "w+b", buffering=0) as file:
            file.write(struct.pack("=q", ahead))

    def command(self, *words: str) -> tuple[str, ...]:
        """Runs these words under this clock."""
        return ("env", f"LD_PRELOAD={self._library}", f"WALL_CLOCK={self._ahead}", *words)
