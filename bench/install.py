"""The peers, from Debian, on a machine where we may install them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.contenders import Squid, Tinyproxy

_INSTALL_SECONDS: Final = 300.0
_SERVICE_POLICY: Final = Path("/usr/sbin/policy-rc.d")


def install_missing() -> None:
    """Squid and tinyproxy from Debian, where we may; a machine without them runs the rest of the benchmark."""
    missing = [kind.name.lower() for kind in (Squid, Tinyproxy) if kind.version() is None]
    if not missing or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    print(f"installing {' and '.join(missing)} from Debian", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    with _no_services(), contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=_INSTALL_SECONDS,
        )


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """The packages' own services must not start: Debian asks this file, and 101 says no."""
    if _SERVICE_POLICY.exists():
        yield
        return
    _SERVICE_POLICY.write_text("#!/bin/sh\nexit 101\n")
    _SERVICE_POLICY.chmod(0o755)
    try:
        yield
    finally:
        _SERVICE_POLICY.unlink(missing_ok=True)
