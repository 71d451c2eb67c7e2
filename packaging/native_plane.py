"""Build hook of the wheel: puts the library of the native plane into it, and what that asks of a machine into its tag.

Where there is cargo it is built (seconds, offline: it has no dependency). Else one that was built before is taken, if
it is no older than its source. Else the wheel is for every machine, and Python serves everything.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_NAME = "libcloned_plane.so"
_IN_WHEEL = f"cloned_proxy/_plane/{_NAME}"
_GLIBC = re.compile(rb"\bGLIBC_2\.(\d+)(?:\.\d+)?\b")
_OTHER = "CARGO_BUILD_TARGET"
"""Cargo's own: the machine that it builds for, where that is another one (`aarch64-unknown-linux-gnu`)."""
_OLDEST = 17
"""PEP 600: manylinux_2_17 is the oldest that pip of today knows."""


class NativePlane(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files. `version` is `editable` for a checkout that is installed."""
        if version == "editable" or sys.platform != "linux":
            return
        library = self._library(Path(self.root))
        if library is None and os.environ.get(_OTHER):
            raise RuntimeError(
                f"no native plane for {os.environ[_OTHER]}: see RELEASING.md for what cargo needs for it"
            )
        if library is None:
            self.app.display_warning("no native plane in this wheel: neither cargo nor build/plane is there")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag(library)}"
        build_data["force_include"][str(library)] = _IN_WHEEL

    def _library(self, root: Path) -> Path | None:
        target = Path(os.environ.get("CARGO_TARGET_DIR", root / "build" / "plane"))
        library = target / os.environ.get(_OTHER, "") / "release" / _NAME
        source = root / "plane"
        if shutil.which("cargo") is not None:
            manifest = source / "Cargo.toml"
            command = ["cargo", "build", "--quiet", "--release", "--offline", "--manifest-path", str(manifest)]
            if subprocess.run([*command, "--target-dir", str(target)], check=False).returncode == 0:
                library.touch()  # cargo leaves it alone where only a date has changed
                return library
            self.app.display_warning("cargo could not build the native plane")
        if not library.is_file() or os.environ.get(_OTHER):
            return None
        built = library.stat().st_mtime
        fresh = all(each.stat().st_mtime <= built for each in (source / "Cargo.toml", *source.rglob("src/**/*.rs")))
        if not fresh or not _loads(library):
            return None
        return library


def _loads(library: Path) -> bool:
    """Whether it is for this machine: pip would refuse the wheel otherwise, as in an image of another C library."""
    try:
        ctypes.CDLL(str(library))
    except OSError:
        return False
    return True


def platform_tag(library: Path) -> str:
    """PEP 600: the newest version of glibc of which the library wants a symbol, and the processor."""
    minors = [int(found) for found in _GLIBC.findall(library.read_bytes())]
    processor = os.environ.get(_OTHER, "").partition("-")[0] or platform.machine()
    return f"manylinux_2_{max([_OLDEST, *minors])}_{processor}"
