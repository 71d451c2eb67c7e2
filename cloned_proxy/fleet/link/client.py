"""The client of the store's protocol, as the settings say: its credential, its CAs, its bounds."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from cloned_proxy.fleet.link.answers import BoundedParser
from cloned_proxy.fleet.signed.errors import FleetError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.settings.fleet_settings import FleetSettings

CALL_SECONDS: Final = 2.0
"""Bound for one call, connecting included; what takes longer has failed."""
CONNECTIONS: Final = 8
"""Calls at once; more wait for their turn, within their time."""
_MAX_CA_BYTES: Final = 4 * 1024 * 1024


class Secrets(Protocol):
    """The vault."""

    def value_of(self, name: str) -> str: ...


class _VaultCredential(CredentialProvider):
    """Asked at each connect, so that a credential that was replaced in the vault is used from then on."""

    def __init__(self, name: str, secrets: Secrets) -> None:
        self._name = name
        self._secrets = secrets

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        user, colon, password = self._secrets.value_of(self._name).partition(":")
        if not colon:
            raise FleetError(f"the secret {self._name} is not user:password (or :password)")
        return (user, password) if user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def client_of(settings: FleetSettings, base: Path, secrets: Secrets | None) -> Redis:
    """`base` is where relative paths begin. Raises StoreError for a credential or CA that cannot be used."""
    store = settings.store or ""
    options: dict[str, Any] = {}
    if settings.auth is not None:
        if secrets is None:
            raise FleetError("`fleet: {auth: …}` needs the vault")
        options["credential_provider"] = _VaultCredential(settings.auth[len("${vault:") : -1], secrets)
    if store.startswith("rediss:"):
        options["ssl_min_version"] = ssl.TLSVersion.TLSv1_2
        if settings.ca_files:
            options["ssl_ca_data"] = "\n".join(
                trusted_pem(base / Path(named).expanduser()) for named in settings.ca_files
            )
    client: Redis = Redis.from_url(
        store,
        protocol=2,  # the same on every server of the last ten years; nothing here needs the third
        socket_timeout=CALL_SECONDS,
        socket_connect_timeout=CALL_SECONDS,
        retry=Retry(NoBackoff(), 0),  # whoever calls knows best whether to repeat
        max_connections=CONNECTIONS + 1,
        parser_class=BoundedParser,
        driver_info=None,  # else each connection says CLIENT SETINFO, a right that no user of a fleet needs
        **options,
    )
    return client


def trusted_pem(path: Path) -> str:
    """The certificates of a file of `fleet.ca_files`. Raises StoreError."""
    text = read_regular_file(path, limit=_MAX_CA_BYTES, what="CA file").decode("ascii", errors="replace")
    try:
        ssl.create_default_context().load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise FleetError(f"fleet.ca_files: {path}: no PEM certificate in it, or a broken one") from error
    return text
