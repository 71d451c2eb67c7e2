"""`.cloned/vault.age`: secrets, encrypted with age to the key of `store.vault.vault_key`.

Values live in `Secret.value` and nowhere else: not in a repr, an exception, an argument of a process or a log.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyrage

from cloned_proxy.policy.secrets.secret import check_secret_value, valid_secret_name
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.files import Signature, read_regular_file, signature_of
from cloned_proxy.store.files.lock import locked
from cloned_proxy.store.vault.vault_key import KeyChoice, VaultError, key_source
from cloned_proxy.store.workspaces.workspace import Workspace

_VERSION: Final = 1
_MAX_BYTES: Final = 1_048_576
_MAX_SECRETS: Final = 256


@dataclass(frozen=True, slots=True)
class Secret:
    name: str
    value: str = field(repr=False)
    since: float
    """When it was set (Unix seconds)."""
    canary: bool = False
    """Made to be found where it does not belong: no rule injects it, and requests that carry it are refused."""


class Vault:
    """The vault of one workspace. Every method raises VaultError or StoreError and then has changed nothing."""

    def __init__(
        self,
        workspace: Workspace,
        key: KeyChoice = "auto",
        *,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path: Final = workspace.vault_file
        self._key = key_source(workspace, key, os.environ if environ is None else environ)
        self._clock = clock

    def secrets(self) -> dict[str, Secret]:
        """All of them by name; none where there is no vault yet."""
        return self._opened(self._key.load()) if self.path.exists(follow_symlinks=False) else {}

    def set(self, name: str, value: str, *, canary: bool = False) -> None:
        """Stores or replaces one secret; the first one makes the vault and its key."""
        if not valid_secret_name(name):
            raise VaultError(f"{name!r} is not the name of a secret; write lower-case words such as llm.api_key")
        try:
            check_secret_value(value)
        except ValueError as error:
            raise VaultError(f"{name}: {error}") from None
        with locked(self.path):
            if self.path.exists(follow_symlinks=False):
                key = self._key.load()
                secrets = self._opened(key)
            else:
                key, secrets = self._key.create(), {}
            if name not in secrets and len(secrets) >= _MAX_SECRETS:
                raise VaultError(f"{self.path}: holds {_MAX_SECRETS} secrets already; remove one first")
            secrets[name] = Secret(name, value, self._clock(), canary)
            self._write(secrets, key)

    def remove(self, name: str) -> None:
        """Raises VaultError when there is none of that name."""
        with locked(self.path):
            if not self.path.exists(follow_symlinks=False):
                raise VaultError(f"{self.path}: there is no vault yet, so no {name!r} either")
            key = self._key.load()
            secrets = self._opened(key)
            if secrets.pop(name, None) is None:
                raise VaultError(f"{self.path}: holds no {name!r}; `cloned-proxy vault list` shows what it holds")
            self._write(secrets, key)

    def signature(self) -> tuple[Signature | None, Signature | None]:
        """Differs after every change of the vault or of its key."""
        return signature_of(self.path), self._key.signature()

    def _opened(self, key: pyrage.x25519.Identity) -> dict[str, Secret]:
        encrypted = read_regular_file(self.path, limit=_MAX_BYTES, what="vault")
        try:
            plain = pyrage.decrypt(encrypted, [key])
        except pyrage.DecryptError as error:
            if "matching keys" in str(error):
                fix = f"it was made with another key than {self._key.place}; restore that, or set `vault: {{key: …}}`"
                raise VaultError(f"{self.path}: cannot be opened: {fix}") from None
            raise VaultError(f"{self.path}: is damaged ({error}); restore it from a copy, or delete it") from None
        try:
            return _read(plain)
        except (ValueError, KeyError, TypeError, AttributeError):
            # From None: the JSON decoder's error carries the whole text.
            raise VaultError(
                f"{self.path}: opens, but holds no vault of this version; restore it from a copy"
            ) from None

    def _write(self, secrets: Mapping[str, Secret], key: pyrage.x25519.Identity) -> None:
        stored = {name: _stored(secret) for name, secret in sorted(secrets.items())}
        plain = json.dumps({"version": _VERSION, "secrets": stored}).encode()
        write_atomically(self.path, pyrage.encrypt(plain, [key.to_public()]))


def _stored(secret: Secret) -> dict[str, Any]:
    stored: dict[str, Any] = {"value": secret.value, "set": secret.since}
    return {**stored, "canary": True} if secret.canary else stored


def _read(plain: bytes) -> dict[str, Secret]:
    document: Any = json.loads(plain)
    if document["version"] != _VERSION:
        raise ValueError("another version")
    secrets = {}
    for name, entry in document["secrets"].items():
        check_secret_value(entry["value"])
        secrets[name] = Secret(name, entry["value"], float(entry["set"]), entry.get("canary", False) is True)
    return secrets
