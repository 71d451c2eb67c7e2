"""Tool identities: signed tokens, and who a request head proves to be (contract section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloned_proxy.policy.model import Caller, Principal


@dataclass(frozen=True, slots=True)
class Claims:
    tool: str
    run: str
    expires: float
    """Unix seconds."""


def mint_token(key: bytes, claims: Claims) -> str:
    """A token for one tool and one run: URL-safe text without `:`, `@` or `/`, checked without a lookup."""
    raise NotImplementedError


def proxy_url(tool: str, token: str, authority: str) -> str:
    """`http://<tool, percent-encoded>:<token>@host:port`, as a client wants it in HTTP_PROXY."""
    raise NotImplementedError


def identify(
    headers: Sequence[tuple[str, str]],
    *,
    key: bytes,
    now: float,
    listener: Principal | None,
) -> Caller:
    """Who sent this head. `headers` are (lower-case name, value) pairs; all of them, duplicates included.

    `listener` is the principal that the listener itself carries: a tool's own (no header can change it; a credential
    for another tool is `identity_mismatch`), ANONYMOUS for the host listener, or None for a listener that names nobody
    and therefore refuses callers without a credential. A bad credential is refused even where none was needed.
    """
    raise NotImplementedError
