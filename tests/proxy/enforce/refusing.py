"""Calls that are refused again and again, and a keyring that takes up a new key."""

from __future__ import annotations

from collections.abc import Callable

from cloned_proxy.policy.callers.identity import Claims, OwnTokens, mint_token
from tests.proxy.support import (
    KEY,
    connect_head,
)

EVIL = "evil.example.net"


class Keyring:
    """A `TokenVerifier` whose key can be changed."""

    def __init__(self) -> None:
        self.generation = 0
        self.at_change: set[Callable[[], None]] = set()
        self.current = OwnTokens(KEY)

    def claims(self, token: str, now: float) -> Claims | None:
        return self.current.claims(token, now)

    def rotate(self, key: bytes) -> None:
        self.current = OwnTokens(key)
        self.generation += 1


NEXT_KEY = b"next" * 8


def with_next_key() -> bytes:
    token = mint_token(NEXT_KEY, Claims("demo@v1", "r1", 4e9))
    return connect_head(443, EVIL, headers=f"X-Cloned-Tool-Token: {token}\r\n")
