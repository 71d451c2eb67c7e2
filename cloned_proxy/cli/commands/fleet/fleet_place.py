"""What the `fleet` commands start from: the workspace, its fleet, the store and the keys."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.cli.show.warnings import warnings_to_stderr
from cloned_proxy.fleet.link.link import Link
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.operating.publish import Publisher
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.fleet.signed.signing import signing_keys
from cloned_proxy.store.settings.config import Config
from cloned_proxy.store.settings.fleet_settings import FleetSettings
from cloned_proxy.store.vault.live_vault import LiveVault
from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.workspaces.workspace import Workspace


@dataclass(frozen=True, slots=True)
class FleetPlace:
    """A workspace that is in a fleet."""

    workspace: Workspace
    config: Config
    settings: FleetSettings

    @classmethod
    def find(cls, directory: Path | None) -> FleetPlace:
        """Raises CommandError where no fleet is set."""
        from cloned_proxy.cli.place.context import existing_workspace

        workspace = existing_workspace(directory)
        config = workspace.config()
        if config.fleet is None:
            raise CommandError(
                f"{workspace.config_file}: no `fleet` in it; `cloned-proxy fleet init NAME` makes one, and shows what "
                "to write there"
            )
        return cls(workspace, config, config.fleet)

    @property
    def record(self) -> Path:
        """Where the last number that was published from here is kept."""
        return self.workspace.root / "fleet.published.json"

    def keys(self) -> list[SigningKey]:
        """The keys that sign. Raises StoreError."""
        return signing_keys(self.workspace, self.settings.key, os.environ)

    def with_store[T](self, work: Callable[[Link, Names], Awaitable[T]]) -> T:
        """What `work` makes of the store. Raises StoreAwayError."""
        warnings_to_stderr()

        async def connected() -> T:
            vault = LiveVault(Vault(self.workspace, self.config.vault.key), os.environ)
            async with Link(self.settings, base=self.workspace.root, secrets=vault) as link:
                return await work(link, Names(self.settings.name))

        return asyncio.run(connected())

    def publisher(self, link: Link, names: Names, keys: list[SigningKey]) -> Publisher:
        return Publisher(
            link, names, fleet=self.settings.name, trust=Trust(self.settings.trust), keys=keys, record=self.record
        )
