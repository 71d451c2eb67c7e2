"""Secrets of the vault on their way to a host that the policy allows, and that no rule injects them for."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.net.attacks.attempt import Attack, Attempt, read_all

_HOST: Final = "api.example.com"
_WATCHED: Final = "requests are searched for secrets"
_SECONDS: Final = 60

type Spread = Callable[[str], tuple[bytes, ...]]
"""A request with the secret, as the pieces that are sent one after the other."""


def _request(secret: str, *, path: str = "/", method: str = "GET", fields: str = "", body: str = "") -> bytes:
    fields += f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} $ORIGIN{path} HTTP/1.1\r\nHost: {_HOST}\r\n{fields}Connection: close\r\n\r\n{body}".replace(
        "$S", secret
    ).encode()


def _sized(secret: str, body: str) -> bytes:
    return _request(secret, method="POST", body=body.replace("$S", secret))


def _split(secret: str) -> tuple[bytes, ...]:
    whole = _sized(secret, "take $S along")
    at = whole.index(secret.encode()) + len(secret) // 2
    return whole[:at], whole[at:]


_WAYS: Final[dict[str, Spread]] = {
    "the query": lambda secret: (_request(secret, path="/?key=$S"),),
    "the path": lambda secret: (_request(secret, path="/x/$S"),),
    "a header": lambda secret: (_request(secret, fields="X-Debug: the key is $S\r\n"),),
    "a body": lambda secret: (_sized(secret, "take $S along"),),
    "a body in two segments": _split,
}


def _carry(attempt: Attempt, spread: Spread, *, inside: bool) -> None:
    secret = f"sk-{attempt.marker}-Kq9"
    _watch(attempt, secret)
    pieces = [part.replace(b"$ORIGIN", b"" if inside else f"http://{_HOST}".encode()) for part in spread(secret)]
    if not inside:
        with attempt.connection() as connection:
            _say(connection.sendall, pieces)
            read_all(connection)
        return
    with attempt.tls(f"{_HOST}:443", _HOST) as secure:
        _say(secure.sendall, pieces)
        read_all(secure)


def _say(send: Callable[[bytes], object], pieces: list[bytes]) -> None:
    for piece in pieces:
        send(piece)
        time.sleep(0.05)  # so that they are segments; one that is not is the easier case


def _watch(attempt: Attempt, secret: str) -> None:
    """Puts it into the vault of the running proxy, and waits until that knows it."""
    before = attempt.proxy.said().count(_WATCHED)
    Vault(Workspace(attempt.proxy.files), "file").set(attempt.marker, secret, canary=True)
    deadline = time.monotonic() + _SECONDS
    while attempt.proxy.said().count(_WATCHED) == before:
        if time.monotonic() > deadline:
            raise RuntimeError("the proxy does not watch the new secret")
        time.sleep(0.02)


ATTACKS: Final = (
    *(Attack(f"in {way}", partial(_carry, spread=spread, inside=False)) for way, spread in _WAYS.items()),
    *(
        Attack(f"in {way}, in opened TLS", partial(_carry, spread=spread, inside=True), paths=("inspected",))
        for way, spread in _WAYS.items()
    ),
)
