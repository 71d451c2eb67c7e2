"""A STAND-IN for the keyring of a desktop, which no test machine has: a backend of the real `keyring` package."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend


class FileBackend(KeyringBackend):
    priority = 1

    def get_password(self, service: str, username: str) -> str | None:
        if "locked" in os.environ.get("STAND_IN_KEYRING", ""):
            raise RuntimeError("AGE-SECRET-KEY-1 is what a careless backend might tell")
        found = self._read().get(f"{service}/{username}")
        return None if found is None else str(found)

    def set_password(self, service: str, username: str, password: str) -> None:
        self._path.write_text(json.dumps({**self._read(), f"{service}/{username}": password}))

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError

    @property
    def _path(self) -> Path:
        return Path(os.environ["STAND_IN_KEYRING"])

    def _read(self) -> dict[str, str]:
        content: dict[str, str] = json.loads(self._path.read_text()) if self._path.exists() else {}
        return content
