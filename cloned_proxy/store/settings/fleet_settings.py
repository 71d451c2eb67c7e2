"""`fleet:` of config.yaml: whose signed policy is in force here, and what brings it (docs/settings.md#fleet)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cloned_proxy.policy.secrets.secret import check_template, references
from cloned_proxy.policy.terms.units import parse_duration
from cloned_proxy.store.files.strict_model import StrictModel
from cloned_proxy.store.settings.issuer_settings import IssuerSettings

KEY_PREFIX: Final = "ed25519:"
_KEY_BYTES: Final = 32
_MAX_PORT: Final = 65_535
_VERSION: Final = re.compile(r"[1-9][0-9]{0,14}\.[1-9][0-9]{0,14}", re.ASCII)
_STORE_FIX: Final = (
    "write one such as redis://redis.example.com:6379, rediss://redis.example.com:6379 or unix:///run/redis/redis.sock"
)

type FleetName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
type ReplicaName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$")]


def public_key_bytes(text: str) -> bytes:
    """The 32 bytes of a public key as `trust:` has it, `ed25519:` and base64. Raises ValueError with the fix."""
    try:
        raw = base64.b64decode(text.removeprefix(KEY_PREFIX), validate=True) if text.startswith(KEY_PREFIX) else b""
    except (binascii.Error, ValueError):
        raw = b""
    # One key has one spelling: base64 leaves the last bits of a text to its writer.
    if len(raw) != _KEY_BYTES or public_key_text(raw) != text:
        raise ValueError(
            "this is not a public key of a fleet; write the `ed25519:…` that `cloned-proxy fleet init` has shown"
        )
    return raw


def public_key_text(raw: bytes) -> str:
    """The 32 bytes of a public key as `trust:` has them."""
    return KEY_PREFIX + base64.b64encode(raw).decode("ascii")


def is_url(policy: str) -> bool:
    """Whether a `policy:` of the settings is no path."""
    return "://" in policy


def _trusted_key(text: str) -> str:
    public_key_bytes(text)
    return text


def _store_url(text: str) -> str:
    """What is wrong is said without quoting it: people put passwords into URLs."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"this is not the URL of a store; {_STORE_FIX}") from error
    if "@" in parts.netloc:
        raise ValueError(
            "a password does not belong into this file; take it out of the URL, run `cloned-proxy vault set "
            "fleet.store` (user:password), and write `auth: ${vault:fleet.store}`"
        )
    usable = text.isprintable() and " " not in text and not parts.query and not parts.fragment
    match parts.scheme:
        case "unix":
            usable = usable and not parts.netloc and parts.path.startswith("/") and len(parts.path) > 1
        case "redis" | "rediss":
            database = parts.path.removeprefix("/")
            usable = usable and bool(parts.hostname) and (port is None or 0 < port <= _MAX_PORT)
            usable = usable and (not database or (database.isascii() and database.isdecimal()))
        case _:
            usable = False
    if not usable:
        raise ValueError(f"this is not the URL of a store of the Redis protocol; {_STORE_FIX}")
    return text


def _auth(text: str) -> str:
    check_template(text)
    if len(references(text)) != 1 or not text.startswith("${vault:") or not text.endswith("}"):
        raise ValueError(
            "the credential is kept in the vault, as user:password; write ${vault:fleet.store}, and set it with "
            "`cloned-proxy vault set fleet.store`"
        )
    return text


def _seconds(value: object) -> float:
    seconds = parse_duration(value)
    if seconds < 1:
        raise ValueError("write a second or more, such as 24h")
    return seconds


def _version(value: object) -> str:
    if not isinstance(value, str) or _VERSION.fullmatch(value) is None:
        raise ValueError("write the number that `fleet status` shows, in quotes, such as '1.12'")
    return value


type LongDuration = Annotated[float, BeforeValidator(_seconds)]
"""Seconds, written as `30s`, `10m`, `24h` or `7d`."""


class FleetSettings(StrictModel):
    """Set by the operator of this machine alone. Nothing that the store says changes any of it."""

    name: FleetName
    """A policy signed for a fleet of another name is refused."""
    store: Annotated[str, AfterValidator(_store_url)] | None = None
    """`redis://`, `rediss://` or `unix://`. None: the policy comes as `policy:`, a file or URL of an envelope."""
    auth: Annotated[str, AfterValidator(_auth)] | None = None
    """`${vault:NAME}`; the vault holds `user:password` of the store, or `:password` for its default user."""
    ca_files: list[str] = Field(default_factory=list)
    """PEM files with CAs that `rediss://`, or the `https://` of the policy, may chain to beside the system's. Relative
    to the workspace."""
    trust: list[Annotated[str, AfterValidator(_trusted_key)]] = Field(min_length=1)
    """Public keys. A policy is accepted if one of them has signed it; several, while keys are rotated."""
    min_version: Annotated[str, BeforeValidator(_version)] | None = None
    """EPOCH.VERSION. An older policy is refused even where nothing is on disk yet that says what was newer."""
    max_staleness: LongDuration | None = None
    """So long after the source last answered everything is denied, however old the policy is. None: the last policy is
    served on."""
    local: Literal["narrow", "none"] = "none"
    """`narrow`: what passes must pass the policy file of this machine as well. `none`: there is no such file."""
    on_store_loss: Literal["local_share", "deny"] = "local_share"
    """What becomes of limits over all replicas while the store is away."""
    issuers: list[IssuerSettings] = Field(default_factory=list)
    """Issuers whose tokens name tools here, beside the fleet's own."""
    audit_entries: int = Field(default=10_000, ge=0, le=10_000_000)
    """So many of the newest entries of each replica's log are in the store, for `log --fleet`. 0: none is sent."""
    audit_keys: list[Annotated[str, AfterValidator(_trusted_key)]] = Field(default_factory=list)
    """Public keys of replicas, for `log --fleet`: with any, what no receipt of one of them covers is said to be
    unproven."""
    acknowledged_by: Annotated[int, Field(ge=0, le=16)] = 0
    """How many followers of the store must have a use of a lease with `max_uses` before it is given; 0: none has to."""
    approvers: list[Annotated[str, AfterValidator(_trusted_key)]] = Field(default_factory=list)
    """Public keys. A decision on a tool's request is accepted if one of them has signed it."""
    replica: ReplicaName | None = None
    """What this proxy is called in `fleet status`; None: the name of the host, and a part of its key."""
    poll: LongDuration = 30.0
    """The policy is asked for so often, whatever was announced: a net under lost news, and the rhythm of `https://`."""
    key: Literal["auto", "file", "keyring", "credential"] = "auto"
    """Where the signing key is, for whoever publishes; `auto`: the systemd credential where there is one, else
    `.cloned/fleet.key`. A replica needs none."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if len(set(self.trust)) != len(self.trust):
            raise ValueError("`trust` names a key twice; take one of them out")
        if len({each.issuer for each in self.issuers}) != len(self.issuers):
            raise ValueError("`issuers` names an issuer twice; put both into one `map`")
        if self.auth is not None and self.store is None:
            raise ValueError("`auth` is for a store; write `store` as well, or take it out")
        return self
