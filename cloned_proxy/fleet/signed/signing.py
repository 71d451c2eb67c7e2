"""The key that publishes, where the settings say it is, and the one that follows it while keys are rotated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from cloned_proxy.fleet.signed.errors import FleetError
from cloned_proxy.fleet.signed.keys import SigningKey, load_key
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.private_file import create_private
from cloned_proxy.store.workspaces.workspace import Workspace

CREDENTIAL: Final = "cloned-fleet.key"
"""The name for `LoadCredential=`."""
_CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
_SERVICE: Final = "cloned-proxy fleet"
_MAX_BYTES: Final = 4096

type KeyChoice = Literal["auto", "file", "keyring", "credential"]


def signing_key(workspace: Workspace, choice: KeyChoice, environ: Mapping[str, str]) -> SigningKey:
    """The key of `fleet: {key: …}`. Raises StoreError where there is none, or others can read it."""
    directory = environ.get(_CREDENTIALS_VARIABLE)
    credential = Path(directory, CREDENTIAL) if directory else None
    if choice == "credential" or (choice == "auto" and credential is not None and credential.exists()):
        return _from_credential(credential)
    if choice == "keyring":
        stored = _keyring("get_password", _SERVICE, str(workspace.root))
        if stored is None:
            raise FleetError(f"the keyring entry {_SERVICE} / {workspace.root}: there is no key; unlock the keyring")
        return SigningKey.from_pem(str(stored).encode(), f"the keyring entry {_SERVICE}")
    return load_key(
        workspace.fleet_key,
        missing=": this machine publishes nothing; publish where the key is, or make a fleet with `cloned-proxy "
        "fleet init`",
    )


def store_key(workspace: Workspace, choice: KeyChoice, key: SigningKey) -> bool:
    """Keeps a new key where the settings say; False where there is one already. Raises StoreError."""
    if choice == "credential":
        raise FleetError(
            "a systemd credential is made outside: `openssl genpkey -algorithm ed25519`, then LoadCredential="
        )
    if choice == "keyring":
        if _keyring("get_password", _SERVICE, str(workspace.root)) is not None:
            return False
        _keyring("set_password", _SERVICE, str(workspace.root), key.pem().decode("ascii"))
        return True
    return create_private(workspace.fleet_key, key.pem())


def replace_key(workspace: Workspace, choice: KeyChoice, key: SigningKey) -> None:
    """Puts a key in the place of the one that has signed. Raises StoreError."""
    if choice == "keyring":
        _keyring("set_password", _SERVICE, str(workspace.root), key.pem().decode("ascii"))
    else:
        write_atomically(workspace.fleet_key, key.pem())


def next_key_file(workspace: Workspace) -> Path:
    """Where the key waits that is to be the next one."""
    return workspace.fleet_key.with_name("fleet.next.key")


def signing_keys(workspace: Workspace, choice: KeyChoice, environ: Mapping[str, str]) -> list[SigningKey]:
    """All keys that sign now: while keys are rotated both, so that who trusts either accepts. Raises StoreError."""
    keys = [signing_key(workspace, choice, environ)]
    if next_key_file(workspace).exists(follow_symlinks=False):
        keys.append(load_key(next_key_file(workspace), missing=""))
    return keys


def _from_credential(path: Path | None) -> SigningKey:
    hint = f"add `LoadCredential={CREDENTIAL}:/path/of/the/key` to the unit, or set `fleet: {{key: file}}`"
    if path is None or not path.exists():
        raise FleetError(f"the systemd credential {CREDENTIAL}: there is none; {hint}")
    content = read_regular_file(path, limit=_MAX_BYTES, what="signing key")
    # systemd owns the file, shows its ACL as group bits, and lets nobody else into the directory.
    if path.stat().st_mode & 0o007:
        raise FleetError(f"{path}: others can read the key; run `chmod 400 {path}`")
    return SigningKey.from_pem(content, str(path))


def _keyring(call: str, *arguments: str) -> Any:
    try:
        import keyring  # noqa: PLC0415  an optional extra, and slow to import
    except ImportError as error:
        raise FleetError("the keyring package is missing; run `pip install 'cloned-proxy[keyring]'`") from error
    try:
        return getattr(keyring, call)(*arguments)
    except Exception as error:  # noqa: BLE001  backends raise what they like, and may quote what they were given
        raise FleetError(
            f"the keyring does not answer ({type(error).__name__}); unlock it, or set `fleet: {{key: file}}`"
        ) from None
