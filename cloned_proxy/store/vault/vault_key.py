"""Where the vault's key is kept: a file of the workspace, a systemd credential, or the keyring of the desktop.

The key is an age identity, one `AGE-SECRET-KEY-1…` line as `age-keygen` writes it, so that `age -d -i KEY vault.age`
opens the vault where this program is not at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from pyrage import IdentityError, x25519

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import Signature, read_regular_file, signature_of
from cloned_proxy.store.files.private_file import create_private, read_private
from cloned_proxy.store.workspaces.workspace import Workspace

CREDENTIAL: Final = "cloned-vault.key"
"""The name for `LoadCredential=`."""
CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
_SERVICE: Final = "cloned-proxy"
_MAX_BYTES: Final = 4096

type KeyChoice = Literal["auto", "file", "keyring", "credential"]


class VaultError(StoreError):
    """A vault that cannot be opened, or has not what is asked of it. The message holds names and places, no value."""


class KeySource(Protocol):
    @property
    def place(self) -> str:
        """For messages: where the key is."""

    def load(self) -> x25519.Identity:
        """Raises StoreError: there is none, it is damaged, or others can read it."""

    def create(self) -> x25519.Identity:
        """A new key, or the one that another process has just made. Raises StoreError where none can be made."""

    def signature(self) -> Signature | None:
        """Changes when the key does, where that can be seen from outside."""


def key_source(workspace: Workspace, choice: KeyChoice, environ: Mapping[str, str]) -> KeySource:
    """The source that `vault: {key: …}` names; `auto` is the credential where systemd gave one, else the file."""
    directory = environ.get(CREDENTIALS_VARIABLE)
    credential = Path(directory, CREDENTIAL) if directory else None
    if choice == "credential" or (choice == "auto" and credential is not None and credential.exists()):
        return CredentialKey(credential)
    return KeyringKey(workspace) if choice == "keyring" else KeyFile(workspace.vault_key)


class KeyFile:
    """`.cloned/vault.key`, mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.place: Final = str(path)

    def load(self) -> x25519.Identity:
        content = read_private(
            self._path,
            limit=_MAX_BYTES,
            missing=", and without it nobody can open the vault; restore it from where you keep keys",
            replace="and restore it from where you keep keys",
        )
        return _identity(content, self.place)

    def create(self) -> x25519.Identity:
        made = x25519.Identity.generate()
        create_private(self._path, f"# public key: {made.to_public()}\n{made}\n".encode())
        return self.load()

    def signature(self) -> Signature | None:
        return signature_of(self._path)


class CredentialKey:
    """What `LoadCredential=` of the systemd unit gave this process."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.place: Final = str(path) if path is not None else f"the systemd credential {CREDENTIAL}"

    def load(self) -> x25519.Identity:
        hint = f"add `LoadCredential={CREDENTIAL}:/path/of/the/key` to the unit, or set `vault: {{key: file}}`"
        if self._path is None:
            raise VaultError(f"{self.place}: {CREDENTIALS_VARIABLE} is not set, so there is none; {hint}")
        if not self._path.exists():
            raise VaultError(f"{self.place}: there is no such credential; {hint}")
        content = read_regular_file(self._path, limit=_MAX_BYTES, what="vault key")
        # systemd owns the file, shows its ACL as group bits, and lets nobody else into the directory.
        if self._path.stat().st_mode & 0o007:
            raise VaultError(f"{self.place}: others can read the key; run `chmod 400 {self._path}`")
        return _identity(content, self.place)

    def create(self) -> x25519.Identity:
        # The credential was made outside; what is there is the key.
        return self.load()

    def signature(self) -> Signature | None:
        return signature_of(self._path) if self._path is not None else None


class KeyringKey:
    """The keyring of the operating system, through the `keyring` package (an extra of this one)."""

    def __init__(self, workspace: Workspace) -> None:
        self._user = str(workspace.root)
        self.place: Final = f"the keyring entry {_SERVICE} / {self._user}"
        self._known: x25519.Identity | None = None

    def load(self) -> x25519.Identity:
        # Asked once for each process: a keyring may prompt, and nothing else can wait meanwhile.
        if self._known is None:
            stored = self._ask("get_password", _SERVICE, self._user)
            if stored is None:
                fix = "unlock the keyring that has it, or set `vault: {key: file}`"
                raise VaultError(f"{self.place}: there is no key; {fix}")
            self._known = _identity(str(stored).encode(), self.place)
        return self._known

    def create(self) -> x25519.Identity:
        if self._ask("get_password", _SERVICE, self._user) is None:
            self._ask("set_password", _SERVICE, self._user, str(x25519.Identity.generate()))
        return self.load()

    def signature(self) -> Signature | None:
        return None

    def _ask(self, call: str, *arguments: str) -> Any:
        try:
            import keyring  # noqa: PLC0415  an optional extra, and slow to import
        except ImportError as error:
            raise VaultError(
                f"{self.place}: the keyring package is missing; run `pip install 'cloned-proxy[keyring]'`"
            ) from error
        try:
            return getattr(keyring, call)(*arguments)
        except Exception as error:  # noqa: BLE001  told as what it is
            # Backends raise what they like; their words may hold what they were given, so only the kind is told.
            raise VaultError(
                f"{self.place}: the keyring does not answer ({type(error).__name__}); unlock it, "
                "or set `vault: {key: file}`"
            ) from None


def _identity(content: bytes, place: str) -> x25519.Identity:
    lines = [line.strip() for line in content.decode("ascii", errors="replace").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    try:
        if len(keys) == 1:
            return x25519.Identity.from_str(keys[0])
    except IdentityError:
        pass  # told below, without the text that it quotes
    raise VaultError(f"{place}: not an age key (one line AGE-SECRET-KEY-1…); restore it from where you keep keys")
