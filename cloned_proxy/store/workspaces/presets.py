"""Where presets are found: the workspace's own in `.cloned/presets/`, then those that come with the program."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cloned_proxy.policy.model.preset import Preset, valid_preset_name
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.reading.read_preset import read_preset
from cloned_proxy.share import share_path
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import Signature, read_regular_file, signature_of
from cloned_proxy.store.files.yaml_reader import read_document

MAX_PRESET_BYTES: Final = 256 * 1024
_VERSION_DIGITS: Final = 12
DERIVED: Final = ("cargo", "debian", "npm", "pypi")
"""Package registries. Their hosts stand nowhere in this program: `registries` asks the user's own clients."""


@dataclass(frozen=True, slots=True)
class PresetShelf:
    """Presets by name. A local one hides the shipped one of its name, even where it is broken."""

    local: Path | None = None
    """The directory of the workspace's own presets, which need not exist."""
    pending: Mapping[str, bytes] = MappingProxyType({})
    """Texts of local presets that are about to be written: what a dry run looks at."""

    def with_pending(self, texts: Mapping[str, bytes]) -> PresetShelf:
        """The shelf as it will be when these are written."""
        return replace(self, pending=MappingProxyType({**self.pending, **texts}))

    def names(self) -> tuple[str, ...]:
        """Every name, sorted."""
        found = {path.stem for path in share_path("config", "presets").glob("*.yaml")}
        if self.local is not None:
            found |= {path.stem for path in self.local.glob("*.yaml") if valid_preset_name(path.stem)}
        return tuple(sorted(found))

    def is_local(self, name: str) -> bool:
        """Whether the workspace has a preset of this name."""
        path = self.path_of(name)
        return path is not None and path.parent == self.local

    def path_of(self, name: str) -> Path | None:
        """The file that the name stands for; None where there is none."""
        if not valid_preset_name(name):  # it becomes a part of a path
            return None
        # A link that leads nowhere is a local preset that is broken, not an absent one.
        if self.local is not None and (local := self.local / f"{name}.yaml").exists(follow_symlinks=False):
            return local
        shipped = share_path("config", "presets") / f"{name}.yaml"
        return shipped if shipped.is_file() else None

    def read(self, name: str) -> Preset:
        """One preset. Raises PolicyError for one that is not valid, StoreError for one that is not there."""
        raw, path = self.text(name), self.path_of(name) or Path(f"{name}.yaml")
        document = read_document(raw, str(path))
        version = hashlib.sha256(raw).hexdigest()[:_VERSION_DIGITS]
        return read_preset(document.data, name=name, source=str(path), version=version, lines=document.lines)

    def text(self, name: str) -> bytes:
        """The bytes of one preset. Raises StoreError for one that is not there."""
        if (raw := self.pending.get(name)) is not None:
            return raw
        path = self.path_of(name)
        if path is None:
            raise StoreError(self._missing(name))
        return read_regular_file(path, limit=MAX_PRESET_BYTES, what="preset")

    def load(self, names: Iterable[str]) -> dict[str, Preset | str]:
        """What the policy parser needs: each preset, or what is wrong with it."""
        return {name: self._read_or_reason(name) for name in names}

    def signature(self) -> tuple[tuple[str, Signature | None], ...]:
        """What the local presets look like from outside: differs when one came, went, or may have changed."""
        if self.local is None:
            return ()
        return tuple((path.name, signature_of(path)) for path in sorted(self.local.glob("*.yaml")))

    def _read_or_reason(self, name: str) -> Preset | str:
        try:
            return self.read(name)
        except (PolicyError, StoreError) as error:
            return "; ".join(str(error).splitlines())

    def _missing(self, name: str) -> str:
        if name in DERIVED:
            return f"preset {name!r} is not written yet; `cloned-proxy allow --preset {name}` looks into your settings"
        close = difflib.get_close_matches(name, (*self.names(), *DERIVED), n=1)
        meant = f"did you mean {close[0]}?" if close else "`cloned-proxy preset list` shows them all"
        return f"there is no preset {name!r}; {meant}"


SHIPPED: Final = PresetShelf()
