"""Policies that were read before, for commands that only look: `list` and `explain` several times an hour.

To read a policy takes far longer than to show it: the models that check it are built anew in each process. So what came
of a text is kept in the user's own cache directory, under the hash of that text and of this program. What enforces or
edits never asks here, and neither a policy with presets (they change by themselves) nor one that holds a header to
inject (it may be a secret) is kept.

The files are pickles that can name nothing but the policy's own values: who could write one can spoil what a command
shows, and run nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from cloned_proxy import __version__
from cloned_proxy.store.files.own_directory import check_own_directory

if TYPE_CHECKING:
    from cloned_proxy.policy.model.model import Policy

_KEPT: Final = 16
"""The newest; a text that is edited leaves its older ones behind."""
_MOST_BYTES: Final = 64 * 1024 * 1024
_VALUES: Final = "cloned_proxy.policy."


def cached_policy(raw: bytes, source: str) -> Policy | None:
    """What the text said when it was read before; None when that is not known. `tests:` are not run again."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, ImportError, EOFError, pickle.PickleError):
        path = _place(raw, source)
        check_own_directory(path.parent)
        with path.open("rb") as file:
            policy = _Reader(io.BytesIO(file.read(_MOST_BYTES))).load()
        return policy if type(policy).__name__ == "Policy" else None
    return None


def keep_policy(raw: bytes, source: str, policy: Policy) -> None:
    """Keeps what came of the text. Where that cannot be done, nothing happens."""
    if policy.presets or any(rule.inject is not None for rule in policy.rules):
        return
    with contextlib.suppress(OSError, TypeError, pickle.PickleError):
        path = _place(raw, source)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_own_directory(path.parent)
        buffer = io.BytesIO()
        _Writer(buffer, protocol=5).dump(policy)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.touch(mode=0o600)
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
        for old in sorted(path.parent.iterdir(), key=lambda file: -file.stat().st_mtime)[_KEPT:]:
            old.unlink(missing_ok=True)


def read_only(items: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    """How a read-only mapping is written down: its own class has no name that a pickle could give."""
    return MappingProxyType(items)


class _Writer(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """Read-only mappings, which the module cannot write by itself, as what they are made of."""
        return (read_only, (dict(obj),)) if isinstance(obj, MappingProxyType) else NotImplemented


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The classes of the policy's values, and no other object of this or any program."""
        if (module, name) == (__name__, read_only.__name__):
            return read_only
        if not module.startswith(_VALUES) or "." in name:
            raise pickle.UnpicklingError(f"{module}.{name} is no value of a policy")
        found = super().find_class(module, name)
        if not isinstance(found, type) or found.__module__ != module:
            raise pickle.UnpicklingError(f"{module}.{name} is no value of a policy")
        return found


def _place(raw: bytes, source: str) -> Path:
    """Under the user's cache directory, for this text, this file and this very program."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    key = hashlib.sha256("\n".join((*_program(), source, "")).encode(errors="surrogateescape") + raw)
    return Path(base, "cloned-proxy", "policies", key.hexdigest())


def _program() -> Iterator[str]:
    """What reads a policy: in a checkout that changes without a new version."""
    yield from (__version__, sys.version)
    package = Path(__file__).resolve().parents[2]
    for file in sorted((*(package / "policy").glob("*/*.py"), package / "store" / "files" / "yaml_reader.py")):
        info = file.stat()
        yield f"{file.name} {info.st_mtime_ns} {info.st_size}"
