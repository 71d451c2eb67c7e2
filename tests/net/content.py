"""Packages and repositories that the canaries serve to real package managers."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Final

HOST: Final = "files.example.com"


def add_python_package(content: Path, name: str) -> None:
    """A wheel in a static index (PEP 503) below `/simple/`."""
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    wheel = content / "wheels" / f"{module}-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{module}.py", "PROVED = True\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    page = content / "simple" / name / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<!DOCTYPE html><a href="/wheels/{wheel.name}">{wheel.name}</a>')


def add_node_package(content: Path, name: str) -> None:
    """A tarball and the document that a registry has about it, below `/npm/`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        manifest = json.dumps({"name": name, "version": "1.0.0", "main": "index.js"}).encode()
        for path, data in (("package/package.json", manifest), ("package/index.js", b"module.exports = 1;\n")):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    tarball = content / "tarballs" / f"{name}-1.0.0.tgz"
    tarball.parent.mkdir(parents=True, exist_ok=True)
    tarball.write_bytes(packed.getvalue())
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()
    dist = {"tarball": f"https://{HOST}/tarballs/{tarball.name}", "integrity": integrity}
    version = {"name": name, "version": "1.0.0", "dist": dist}
    document = content / "npm" / name
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(json.dumps({"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}))


def add_repository(content: Path, name: str, work: Path) -> None:
    """A git repository for the dumb HTTP protocol below `/git/`."""
    author = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main"]
    work.mkdir(parents=True)
    (work / "README").write_text("through the proxy\n")
    for command in (["init", "-q"], ["add", "README"], ["commit", "-q", "-m", "First"]):
        subprocess.run(["git", *author, *command], cwd=work, check=True)
    bare = content / "git" / f"{name}.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(bare)], check=True)
    subprocess.run(["git", "update-server-info"], cwd=bare, check=True)
