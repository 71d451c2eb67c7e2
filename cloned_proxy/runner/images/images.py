"""`image build`: the worker and holder images from Debian packages and pinned wheels, without an image registry."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.apt_mirror import default_release, mirror_uri
from cloned_proxy.runner.images.image_check import CORE, HOLDER_IMAGE, NODE_LABEL, PARTS, SOURCE_LABEL, source_mark
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.runner.images.toolchain import WHEELS, lay_out, pinned_version
from cloned_proxy.runner.values.errors import EngineError, ImageMissingError
from cloned_proxy.runner.values.spec import MIB
from cloned_proxy.share import share_path

_TOOLCHAIN_PACKAGES: Final = ("gcc", "musl-tools")
_UNREAD: Final = ("doc", "info", "locale", "man")
"""Below /usr/share; licences stay."""

type Say = Callable[[str], None]


def build_images(
    engine: Engine, say: Say, *, suite: str | None = None, rebuild: bool = False, parts: Sequence[str] = tuple(PARTS)
) -> None:
    """Makes both images. The imported bases are kept, so that a second build takes seconds. Raises SandboxError."""
    began = time.monotonic()
    release = suite or default_release()
    bases = base_images(release, parts)
    if rebuild or not _exists(engine, bases["base"]):
        packages = (*CORE, *(package for part in parts for package in PARTS[part]))
        _import(engine, bases["base"], release, packages, say, wheels=[part for part in parts if part in WHEELS])
    if rebuild or not _exists(engine, bases["toolchain"]):
        _import(engine, bases["toolchain"], release, _TOOLCHAIN_PACKAGES, say)
    args = {"BASE": bases["base"], "TOOLCHAIN": bases["toolchain"], "IMPORTED": "yes"}
    node = {NODE_LABEL: pinned_version("node")} if "node" in parts else {}
    for target, tag, more in (("holder", HOLDER_IMAGE, {}), ("worker", PYTHON_IMAGE, node)):
        say(f"building {tag}")
        labels = {SOURCE_LABEL: source_mark(), **more}
        engine.build(str(share_path("sandbox")), target=target, tag=tag, args=args, labels=labels)
    for older in engine.images(f"cloned-base:{release}*"):
        if older != bases["base"]:
            engine.remove_image(older)
    size = int(engine.image(PYTHON_IMAGE)["Size"]) // MIB
    say(f"done in {time.monotonic() - began:.0f} s: {PYTHON_IMAGE} ({size} MiB), {HOLDER_IMAGE}")


def base_images(release: str, parts: Sequence[str] = tuple(PARTS)) -> dict[str, str]:
    """The names of what both images are built from; that of the worker's base changes with what is to be in it."""
    lock = share_path("sandbox", "toolchain.lock").read_bytes()
    script = share_path("sandbox", "toolchain.py").read_bytes()
    mark = hashlib.sha256(repr((CORE, PARTS, sorted(parts), _UNREAD)).encode() + lock + script).hexdigest()[:8]
    return {"base": f"cloned-base:{release}-{mark}", "toolchain": f"cloned-toolchain:{release}"}


def _exists(engine: Engine, name: str) -> bool:
    try:
        engine.image(name)
    except ImageMissingError:
        return False
    return True


def _import(
    engine: Engine, name: str, release: str, packages: tuple[str, ...], say: Say, *, wheels: Sequence[str] = ()
) -> None:
    if shutil.which("mmdebstrap") is None:
        raise EngineError("mmdebstrap is missing: `sudo apt-get install mmdebstrap`")
    say(f"installing {', '.join(packages)} into {name} (half a minute to a minute)")
    with tempfile.TemporaryDirectory(prefix="cloned-image-") as directory:
        tar = Path(directory) / "root.tar"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in _UNREAD]
        command += ["--dpkgopt=path-include=/usr/share/doc/*/copyright", release, str(tar), mirror_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  fixed words, no shell
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise EngineError(f"mmdebstrap could not install {release}: {last}; --suite chooses another release")
        if wheels:
            _add_wheels(Path(directory), tar, wheels, say)
        engine.import_image(str(tar), name)


def _add_wheels(directory: Path, tar: Path, wheels: Sequence[str], say: Say) -> None:
    named = ", ".join(f"{part} {pinned_version(part)}" for part in wheels)
    say(f"fetching {named} with pip, and checking their hashes (up to 80 MB)")
    root = lay_out(wheels, directory)
    with tarfile.open(tar, "a") as archive:
        there = {name.rstrip("/") for name in archive.getnames()}  # the engine takes no name twice
        for path in sorted(root.rglob("*")):
            name = f"./{path.relative_to(root)}"
            if name not in there:
                archive.add(path, name, recursive=False, filter=_of_root)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mtime = 0
    return entry
