"""What of the store cannot be used: told by its part, while the rest goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import structlog

from cloned_proxy.fleet.signed.errors import StoreRefusedError

_log = structlog.get_logger(__name__)


class Parts:
    """What the store holds that this link cannot use, by part."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        """By part: why it cannot be used, and the key of the store under which that lies."""
        self.on_fault: Callable[[str, str], None] = lambda _part, _reason: None
        """Hears of each change of `faults`; "" where a part is well again."""
        self._keys: dict[str, dict[str, str]] = {}
        """By part: the keys that cannot be used, each with the reason. One that can makes no other one well."""

    @contextlib.contextmanager
    def part(self, name: str, key: str) -> Iterator[None]:
        """Inside is done all that belongs to `name` under `key`, at a time; whether that can be used is told."""
        try:
            yield
        except StoreRefusedError as error:
            keys = self._keys.setdefault(name, {})
            keys[key] = f"{error} ({key})"
            self._tell(name)
            raise
        if (bad := self._keys.get(name)) and bad.pop(key, ""):
            self._tell(name)

    def is_bad(self, name: str, key: str) -> bool:
        """Whether the last one who used it could not."""
        return bool(self._keys.get(name, {}).get(key))

    def say(self, name: str, reason: str, *, about: str = "") -> None:
        """What whoever uses the part has found itself, of each thing apart; "": nothing any more."""
        self._keys.setdefault(name, {})[about] = reason
        self._tell(name)

    def _tell(self, name: str) -> None:
        reason = next(filter(None, self._keys[name].values()), "")
        if reason == self.faults.get(name, ""):
            return
        if reason:
            self.faults[name] = reason
            _log.error(
                "a part of what the store of the fleet has cannot be used; the rest goes on", part=name, reason=reason
            )
        else:
            del self.faults[name]
            _log.info("that part of what the store of the fleet has can be used again", part=name)
        self.on_fault(name, reason)
