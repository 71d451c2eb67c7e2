"""Registries of npm and PyPI with dates that a test chooses, as files that the canaries serve to real clients."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

NPM_HOST: Final = "npm.example.com"
PYPI_HOST: Final = "pypi.example.com"
FILES_HOST: Final = "pypi-files.example.com"


def add_npm_package(content: Path, name: str, published: Mapping[str, float]) -> None:
    """Each version with the Unix seconds of its upload; the last one is `latest`. Below `/npm/`."""
    versions: dict[str, Any] = {}
    base = name.rpartition("/")[2]
    directory = content / "npm" / name
    for version in published:
        packed = _tarball({"package.json": json.dumps({"name": name, "version": version}), "index.js": "exports.x = 1"})
        path = directory / "-" / f"{base}-{version}.tgz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed)
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
        shasum = hashlib.sha1(packed, usedforsecurity=False).hexdigest()
        url = f"https://{NPM_HOST}/npm/{name}/-/{path.name}"
        versions[version] = {
            "name": name, "version": version, "dist": {"tarball": url, "integrity": integrity, "shasum": shasum}
        }  # fmt: skip
    document = {"name": name, "dist-tags": {"latest": list(published)[-1]}, "versions": versions}
    (directory / "abbreviated.json").write_text(json.dumps(document))
    times = {version: _iso(at) for version, at in published.items()}
    full = {**document, "time": {"created": _iso(0), "modified": _iso(max(published.values())), **times}}
    (directory / "index.html").write_text(json.dumps(full))


def add_pypi_project(content: Path, name: str, published: Mapping[str, float]) -> None:
    """A wheel for each version, on a host of its own, and its project page below `/simple/`."""
    module = name.replace("-", "_")
    files: list[dict[str, Any]] = []
    for version, at in published.items():
        info = f"{module}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(f"{module}.py", f"VERSION = {version!r}\n")
            archive.writestr(f"{info}/METADATA", metadata)
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        path = content / "wheelhouse" / f"{module}-{version}-py3-none-any.whl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed.getvalue())
        path.with_name(f"{path.name}.metadata").write_text(metadata)
        files.append(
            {
                "filename": path.name,
                "url": f"https://{FILES_HOST}/wheelhouse/{path.name}",
                "hashes": {"sha256": hashlib.sha256(packed.getvalue()).hexdigest()},
                "core-metadata": {"sha256": hashlib.sha256(metadata.encode()).hexdigest()},
                "size": len(packed.getvalue()),
                "upload-time": _iso(at),
            }
        )
    page = {"meta": {"api-version": "1.1"}, "name": name, "versions": list(published), "files": files}
    directory = content / "simple" / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "simple.json").write_text(json.dumps(page))
    links = (f'<a href="{each["url"]}">{each["filename"]}</a>' for each in files)
    (directory / "index.html").write_text(f"<!DOCTYPE html>{''.join(links)}")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _tarball(files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()
