"""Settings as they were read before: the models that read them take longer than a warm start may.

What came of a text is kept beside it, in the workspace's `cache/`, under the hash of that text and of this program. No
tool ever sees a workspace: in a cache that some tool may write, it could choose its own image and mounts. Another text,
another program or a file that cannot be trusted is read anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

from cloned_proxy import __version__
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.own_directory import check_own_directory

if TYPE_CHECKING:
    from pydantic import BaseModel

_MOST_BYTES: Final = 1_048_576
_KEPT: Final = 64
_DIRECTORY: Final = "cache"


def cached_settings[Settings: BaseModel](what: str, file: Path, models: Path, read: Callable[[], Settings]) -> Settings:
    """What `file` holds of `what`; `read` reads it where that is not known, by the models in the module `models`.

    What comes from the cache has the names and values of the model, and nothing else of it. Raises what `read` raises.
    """
    try:
        there = file.exists(follow_symlinks=False)
        raw = read_regular_file(file, limit=_MOST_BYTES, what=what) if there else b""
        path = file.parent / _DIRECTORY / _name(what, raw, models)
    except (OSError, StoreError):
        return read()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        check_own_directory(path.parent)
        with path.open("rb") as known:
            return cast("Settings", _read(json.loads(known.read(_MOST_BYTES))))
    settings = read()
    _keep(path, settings)
    return settings


def _keep(path: Path, settings: BaseModel) -> None:
    """Where that cannot be done, nothing happens. What sets variables stays in one file: they may be secrets."""
    if getattr(settings, "env", None):
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        check_own_directory(path.parent)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(_written(settings)), encoding="utf-8")
        temporary.replace(path)
        for old in sorted(path.parent.iterdir(), key=lambda file: -file.stat().st_mtime)[_KEPT:]:
            old.unlink(missing_ok=True)


def _written(section: BaseModel) -> dict[str, Any]:
    """A section's sections below `sections`, so that they are told from mappings; all other values are plain JSON."""
    values = {name: getattr(section, name) for name in type(section).model_fields}
    inner = {name: _written(value) for name, value in values.items() if hasattr(value, "model_fields_set")}
    return {"sections": inner, "values": {name: value for name, value in values.items() if name not in inner}}


def _read(section: dict[str, Any]) -> SimpleNamespace:
    """The same names with the same values as the model, which has nothing else."""
    inner = {name: _read(value) for name, value in section["sections"].items()}
    return SimpleNamespace(**section["values"], **inner)


def _name(what: str, raw: bytes, models: Path) -> str:
    """For this text and this very program: in a checkout that changes without a new version."""
    info = models.stat()
    program = f"{what!r} {__version__} {sys.version} {info.st_mtime_ns} {info.st_size}\n"
    return hashlib.sha256(program.encode() + raw).hexdigest()
