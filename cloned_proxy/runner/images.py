"""`image build`: the worker and holder images from Debian packages, without a registry.

The package mirror is the one this machine's own apt uses. On Debian the release is a fixed one, new enough for every
tool in the image; elsewhere (Ubuntu) it is the machine's own.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.errors import EngineError, ImageMissingError
from cloned_proxy.runner.worker import PYTHON_IMAGE
from cloned_proxy.share import share_path

HOLDER_IMAGE: Final = "cloned-holder:latest"
SOURCE_LABEL: Final = "cloned.source"
_DEBIAN_RELEASE: Final = "trixie"
_BASE_PACKAGES: Final = ("ca-certificates", "curl", "git", "nodejs", "python3", "python3-pip", "python3-venv")
_TOOLCHAIN_PACKAGES: Final = ("gcc", "musl-tools")
_ONE_LINE: Final = re.compile(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)$")
_BASES: Final = {"base": _BASE_PACKAGES, "toolchain": _TOOLCHAIN_PACKAGES}

type Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Mirror:
    uri: str
    suite: str


def build_images(engine: Engine, say: Say, *, suite: str | None = None, rebuild: bool = False) -> None:
    """Makes both images. The imported base is kept, so that a second build takes seconds. Raises EngineError."""
    release = suite or _release()
    names = {kind: f"cloned-{kind}:{release}" for kind in _BASES}
    for kind, packages in _BASES.items():
        if rebuild or not _exists(engine, names[kind]):
            _import(engine, names[kind], release, packages, say)
    args = {"BASE": names["base"], "TOOLCHAIN": names["toolchain"]}
    for target, tag in (("holder", HOLDER_IMAGE), ("worker", PYTHON_IMAGE)):
        say(f"building {tag}")
        engine.build(
            str(share_path("sandbox")), target=target, tag=tag, args=args, labels={SOURCE_LABEL: source_mark()}
        )


def source_mark() -> str:
    """A hash over what goes into the images."""
    folder = share_path("sandbox")
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def check_current(engine: Engine, name: str) -> dict[str, Any]:
    """What the engine knows of an image; one of ours must be of this program's sources. Raises ImageMissingError."""
    facts = engine.image(name)
    labels = (facts.get("Config") or {}).get("Labels") or {}
    if name in (HOLDER_IMAGE, PYTHON_IMAGE) and labels.get(SOURCE_LABEL) != source_mark():
        raise ImageMissingError(f"image {name} is of another version of this program: `cloned-proxy image build`")
    return facts


def mirrors(texts: Iterable[str]) -> list[Mirror]:
    """The `deb` entries of apt source files, one-line and deb822 (sources.list(5)), that carry `main`, in order."""
    found: list[Mirror] = []
    for text in texts:
        found += [
            Mirror(match[1], match[2])
            for line in text.splitlines()
            if (match := _ONE_LINE.match(line.strip())) and "main" in match[3].split()
        ]
        found += _deb822(text)
    return found


def _deb822(text: str) -> list[Mirror]:
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            name.strip().lower(): value.split()
            for name, _, value in (line.partition(":") for line in stanza.splitlines() if not line.startswith("#"))
        }
        if "deb" in fields.get("types", []) and "main" in fields.get("components", []):
            found += [Mirror(uri, suite) for uri in fields.get("uris", []) for suite in fields.get("suites", [])]
    return found


def _exists(engine: Engine, name: str) -> bool:
    try:
        engine.image(name)
    except ImageMissingError:
        return False
    return True


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def _release() -> str:
    facts = _os_release()
    return _DEBIAN_RELEASE if facts.get("ID") == "debian" else facts.get("VERSION_CODENAME", "")


def _mirror_uri() -> str:
    apt = Path("/etc/apt")
    files = [
        apt / "sources.list",
        *sorted(apt.glob("sources.list.d/*.list")),
        *sorted(apt.glob("sources.list.d/*.sources")),
    ]
    codename = _os_release().get("VERSION_CODENAME", "")
    for mirror in mirrors(file.read_text(encoding="utf-8") for file in files if file.is_file()):
        if mirror.suite == codename:
            return mirror.uri
    raise EngineError(
        "apt's sources name no mirror of this machine's release: build from a registry with "
        f"`docker build --target worker -t {PYTHON_IMAGE} {share_path('sandbox')}`, and --target holder alike"
    )


def _import(engine: Engine, name: str, release: str, packages: tuple[str, ...], say: Say) -> None:
    if shutil.which("mmdebstrap") is None:
        raise EngineError("mmdebstrap is missing: `sudo apt-get install mmdebstrap`")
    say(f"installing {', '.join(packages)} into {name} (about half a minute)")
    with tempfile.TemporaryDirectory(prefix="cloned-image-") as directory:
        tar = f"{directory}/root.tar"
        include = f"--include={','.join(packages)}"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", include, release, tar, _mirror_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  fixed words, no shell
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise EngineError(f"mmdebstrap could not install {release}: {last}; --suite chooses another release")
        engine.import_image(tar, name)
