"""The secrets as they are now, for the proxy: read again whenever the vault or its key has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from cloned_proxy.policy.secrets.secret import check_secret_value
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.vault.vault import Secret, Vault
from cloned_proxy.store.vault.vault_key import VaultError

_log = structlog.get_logger(__name__)

ENVIRONMENT: Final = {"llm.api_key": "LLM_API_KEY"}
"""Secret to the variable of this process that wins over the vault (docs/operations.md#the-files-of-a-workspace)."""


class LiveVault:
    """Two `stat` calls for each answer and no watcher that could die: a replaced secret is never used again."""

    def __init__(self, vault: Vault, environ: Mapping[str, str]) -> None:
        self._vault = vault
        self._given = {name: environ[variable] for name, variable in ENVIRONMENT.items() if environ.get(variable)}
        self._secrets: dict[str, Secret] = {}
        self._watched: Mapping[str, str] = self._given
        self._problem: StoreError | None = None
        self._seen: object = None

    def __repr__(self) -> str:
        return f"LiveVault({self._vault.path})"

    def open(self) -> None:
        """Reads the vault now: its key may take a while to come, and no call should have to wait for it."""
        self._refresh()

    def value_of(self, name: str) -> str:
        """The secret's value. Raises VaultError: none of that name, or a vault that cannot be opened."""
        given = self._given.get(name)
        if given is not None:
            try:
                check_secret_value(given)
            except ValueError as error:
                raise VaultError(f"{ENVIRONMENT[name]} in the environment: {error}") from None
            return given
        self._refresh()
        if self._problem is not None:
            raise VaultError(str(self._problem))
        secret = self._secrets.get(name)
        if secret is None:
            raise VaultError(f"{self._vault.path}: holds no {name!r}; run `cloned-proxy vault set {name}`")
        if secret.canary:
            raise VaultError(f"{self._vault.path}: {name!r} is a canary, which no rule may inject")
        return secret.value

    def watched(self) -> Mapping[str, str]:
        """Every value by its name, canaries included: the same mapping until something changes.

        The last values that could be read, while the vault cannot be opened: they are secrets all the same.
        """
        self._refresh()
        return self._watched

    def _refresh(self) -> None:
        signature = self._vault.signature()
        if signature == self._seen:
            return
        # Before the reading: a change in the middle of it is then noticed by the next call.
        self._seen = signature
        try:
            self._secrets, self._problem = self._vault.secrets(), None
        except StoreError as error:
            self._secrets, self._problem = {}, error
            _log.error("the vault cannot be opened; rules that inject refuse until it can", reason=str(error))
        else:
            self._watched = {**{name: secret.value for name, secret in self._secrets.items()}, **self._given}
            if self._secrets:
                _log.info("vault opened", secrets=len(self._secrets))
