"""The workspace: one directory, `.cloned`, with everything that belongs to one project."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.private_file import create_private

if TYPE_CHECKING:
    from cloned_proxy.store.settings.config import Config, LlmSettings, SandboxSettings
    from cloned_proxy.store.settings.upstream_settings import UpstreamSettings
    from cloned_proxy.store.workspaces.presets import PresetShelf

DIRECTORY_NAME: Final = ".cloned"
_CONFIG_MODELS: Final = Path(__file__).parents[1] / "settings/config.py"
_UPSTREAM_MODELS: Final = Path(__file__).parents[1] / "settings/upstream_settings.py"
_IGNORES: Final = b"""\
# The workspace holds keys, secrets and the log, so git sees none of it. A line `!policy.yaml` below keeps the policy.
*
"""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The paths of docs/operations.md#the-files-of-a-workspace. Making one touches no file; `create` does."""

    root: Path

    @classmethod
    def find(
        cls, flag: Path | None = None, *, environ: Mapping[str, str] | None = None, start: Path | None = None
    ) -> Workspace:
        """That of `--workspace`, else of `CLONED_WORKSPACE`, else the nearest `.cloned/` upwards, else `./.cloned`."""
        environ = os.environ if environ is None else environ
        named = flag or (Path(environ["CLONED_WORKSPACE"]) if environ.get("CLONED_WORKSPACE") else None)
        if named is not None:
            return cls(named.expanduser().absolute())
        here = (start or Path.cwd()).absolute()
        for directory in (here, *here.parents):
            if (directory / DIRECTORY_NAME).is_dir():
                return cls(directory / DIRECTORY_NAME)
        return cls(here / DIRECTORY_NAME)

    @property
    def config_file(self) -> Path:
        return self.root / "config.yaml"

    @property
    def policy_file(self) -> Path:
        return self.root / "policy.yaml"

    @property
    def presets(self) -> PresetShelf:
        """The presets that a policy of this workspace may name."""
        from cloned_proxy.store.workspaces.presets import PresetShelf  # noqa: PLC0415  as in `config`

        return PresetShelf(self.root / "presets")

    def presets_for(self, policy: Path) -> PresetShelf:
        """The presets that the policy in this file may name: those of the fleet's copy came with it."""
        from cloned_proxy.store.workspaces.presets import PresetShelf  # noqa: PLC0415  as in `config`

        return PresetShelf(self.fleet_presets) if policy == self.fleet_policy else self.presets

    @property
    def state_db(self) -> Path:
        return self.root / "state.db"

    @property
    def identity_key(self) -> Path:
        return self.root / "identity.key"

    @property
    def vault_file(self) -> Path:
        return self.root / "vault.age"

    @property
    def vault_key(self) -> Path:
        return self.root / "vault.key"

    @property
    def fleet_key(self) -> Path:
        return self.root / "fleet.key"

    @property
    def fleet_directory(self) -> Path:
        """What a replica of a fleet keeps."""
        return self.root / "fleet"

    @property
    def fleet_policy(self) -> Path:
        """A copy of the fleet's policy in force, for commands that look. Nothing enforces it."""
        return self.fleet_directory / "policy.yaml"

    @property
    def fleet_presets(self) -> Path:
        """The presets of that copy."""
        return self.fleet_directory / "presets"

    @property
    def ca_directory(self) -> Path:
        return self.root / "ca"

    @property
    def git_ignore(self) -> Path:
        return self.root / ".gitignore"

    @property
    def artifacts_directory(self) -> Path:
        return self.root / "artifacts"

    def create(self) -> None:
        """Makes the directory (0700) where it is missing, and checks that it can be used. Raises StoreError.

        It hides itself from git. A directory of another name that was there before may be a project with files of its
        own (`--workspace .`), and is left as it is.
        """
        ours = self.root.name == DIRECTORY_NAME or not self.root.exists()
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError as error:
            raise StoreError(f"{self.root}: not a directory; move it away, or use --workspace DIR") from error
        except OSError as error:
            raise StoreError(
                f"{self.root}: the workspace cannot be made: {error.strerror}; use --workspace DIR in a writable place"
            ) from error
        self.check_owner()
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise StoreError(f"{self.root}: the workspace is read-only; mount it writable, or use --workspace DIR")
        if ours and not self.git_ignore.exists():
            create_private(self.git_ignore, _IGNORES)

    def check_owner(self) -> None:
        """Raises StoreError for a directory that somebody else made or can write: one planted in /tmp, for example."""
        info = self.root.stat()
        if info.st_uid != os.geteuid():
            raise StoreError(f"{self.root}: belongs to user {info.st_uid}; run as that user, or use --workspace DIR")
        if stat.S_IMODE(info.st_mode) & 0o022:
            raise StoreError(f"{self.root}: others can write the workspace; run `chmod 700 {self.root}`")

    def config(self) -> Config:
        """The settings; all defaults without a file. Raises StoreError."""
        from cloned_proxy.store.settings.config import load_config  # noqa: PLC0415  its models cost more than most commands do

        return load_config(self.config_file)

    def sandbox_settings(self) -> SandboxSettings:
        """`sandbox:` of the settings, for commands that should start fast: values alone. Raises StoreError."""
        from cloned_proxy.store.settings.settings_cache import cached_settings  # noqa: PLC0415  as above

        return cached_settings("sandbox", self.config_file, _CONFIG_MODELS, lambda: self.config().sandbox)

    def llm_settings(self) -> LlmSettings:
        """`llm:` of the settings, in the same way. Raises StoreError."""
        from cloned_proxy.store.settings.settings_cache import cached_settings  # noqa: PLC0415  as above

        return cached_settings("llm", self.config_file, _CONFIG_MODELS, lambda: self.config().llm)

    def upstream_settings(self) -> UpstreamSettings:
        """`upstream:` of the settings, in the same way. Raises StoreError."""
        from cloned_proxy.store.settings.settings_cache import cached_settings  # noqa: PLC0415  as above

        return cached_settings("upstream", self.config_file, _UPSTREAM_MODELS, lambda: self.config().upstream)

    def own_policy_path(self, config: Config) -> Path:
        """The policy file of this machine, whatever is in force: what a publisher publishes, or what narrows."""
        named = config.policy if config.fleet is not None and config.fleet.store is not None else None
        return self.root / Path(named).expanduser() if named is not None else self.policy_file

    def policy_path(
        self, flag: Path | None = None, *, config: Config | None = None, environ: Mapping[str, str] | None = None
    ) -> Path:
        """That of `--policy`, else `CLONED_POLICY`, else `policy:` of config.yaml, else the workspace's own.

        On a replica of a fleet neither of the last two: the copy of what is in force there.
        """
        environ = os.environ if environ is None else environ
        if flag is not None:
            return flag.expanduser().absolute()
        if environ.get("CLONED_POLICY"):
            return Path(environ["CLONED_POLICY"]).expanduser().absolute()
        if config is None and not self.config_file.exists():
            return self.policy_file  # without the time that the settings take
        settings = self.config() if config is None else config
        if settings.fleet is not None and self.fleet_policy.exists():
            return self.fleet_policy
        configured = settings.policy
        if configured is not None and (settings.fleet is None or settings.fleet.store is not None):
            return self.root / Path(configured).expanduser()
        return self.policy_file
