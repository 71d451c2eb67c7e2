"""What the proxies are held against: a relay that checks nothing, and no proxy at all."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from bench.contenders import Contender, ContenderError

_SOURCE: Final = Path(__file__).with_name("floor.c")
_COMPILE_SECONDS: Final = 60.0


class Floor(Contender):
    """`floor.c`: what this kernel gives to whoever relays, at the price of its system calls alone."""

    name = "floor"

    @classmethod
    def version(cls) -> str | None:
        compiler = shutil.which("cc")
        if compiler is None:
            return None
        said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
        return f"a C relay that checks nothing, {said.splitlines()[0] if said else 'cc'}"

    def command(self) -> list[str]:
        program = self.directory / "floor"
        compiler = shutil.which("cc") or "cc"
        built = subprocess.run(
            [compiler, "-O2", "-o", program, _SOURCE],
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMPILE_SECONDS,
        )
        if built.returncode:
            raise ContenderError(f"floor.c cannot be compiled: {built.stderr[-300:]}")
        http, tls = self.ports
        return [str(program), str(self.port), str(tls), str(http)]


class Direct(Contender):
    """The clients ask the upstream themselves: what a proxy's time comes on top of. It has no process to measure."""

    name = "direct"
    asks = False

    @classmethod
    def version(cls) -> str | None:
        return "no proxy"

    def command(self) -> list[str]:
        raise ContenderError("there is nothing to start")

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def cpu(self) -> float:
        return 0.0

    def address_for(self, port: int) -> tuple[str, int]:
        return "127.0.0.1", port
