"""Attacks on who: reaching a host that belongs to one tool without being that tool."""
# ruff: noqa: E501  one credential a line

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Final

from tests.net.attacks.attempt import Attack, Attempt, proxy_authorization

_HOST: Final = "alpha.example.com"
_CONTACTS: Final = ((_HOST, 80), (_HOST, 443))
type _Credentials = Callable[[Attempt], Mapping[str, str]]


def _basic(text: str) -> dict[str, str]:
    return {"Proxy-Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def _flipped(token: str) -> str:
    """The token with its last character changed."""
    return token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]


_CREDENTIALS: Final[dict[str, _Credentials]] = {
    "no credential": lambda _: {},
    "a forged X-Cloned-Tool": lambda _: {"X-Cloned-Tool": "alpha@v1"},
    "a forged X-Cloned-Tool beside another tool's token": lambda a: {
        "X-Cloned-Tool": "alpha@v1",
        **proxy_authorization("beta@v1", a.proxy.token("beta@v1")),
    },
    "another tool's token under this tool's name": lambda a: proxy_authorization("alpha@v1", a.proxy.token("beta@v1")),
    "another tool's own credential": lambda a: proxy_authorization("beta@v1", a.proxy.token("beta@v1")),
    "another tool's token as Bearer": lambda a: {"Proxy-Authorization": f"Bearer {a.proxy.token('beta@v1')}"},
    "an expired token": lambda a: proxy_authorization("alpha@v1", a.proxy.token("alpha@v1", ttl=-10)),
    "a token signed with another key": lambda a: proxy_authorization("alpha@v1", a.proxy.token("alpha@v1", key=b"k" * 32)),
    "a token signed with a key of zeros": lambda a: proxy_authorization("alpha@v1", a.proxy.token("alpha@v1", key=bytes(32))),
    "a token with a changed signature": lambda a: proxy_authorization("alpha@v1", _flipped(a.proxy.token("alpha@v1"))),
    "a truncated token": lambda a: proxy_authorization("alpha@v1", a.proxy.token("alpha@v1")[:-5]),
    "an empty token": lambda _: proxy_authorization("alpha@v1", ""),
    "garbage in Basic": lambda _: {"Proxy-Authorization": "Basic !!!!"},
    "Basic without a colon": lambda _: _basic("alpha@v1"),
    "an unknown scheme": lambda a: {"Proxy-Authorization": f"Digest {a.proxy.token('alpha@v1')}"},
    "a Bearer that is garbage": lambda _: {"Proxy-Authorization": "Bearer garbage"},
    "a token header that is garbage": lambda _: {"X-Cloned-Tool-Token": "garbage"},
    "this tool's token in Authorization": lambda a: {"Authorization": f"Bearer {a.proxy.token('alpha@v1')}"},
    "two credentials that disagree": lambda a: {
        **proxy_authorization("alpha@v1", a.proxy.token("alpha@v1")),
        "X-Cloned-Tool-Token": a.proxy.token("beta@v1"),
    },
    "two Proxy-Authorization fields": lambda a: {
        **proxy_authorization("alpha@v1", a.proxy.token("alpha@v1")),
        "proxy-authorization": f"Bearer {a.proxy.token('beta@v1')}",
    },
}  # fmt: skip


def _try(credentials: _Credentials) -> Callable[[Attempt], None]:
    """Both paths."""

    def act(attempt: Attempt) -> None:
        headers = credentials(attempt)
        with contextlib.suppress(OSError, ssl.SSLError):
            attempt.get(_HOST, headers=headers)
        attempt.fetch(_HOST, headers=headers)

    return act


def _request(attempt: Attempt, headers: Mapping[str, str], path: str) -> bytes:
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return f"GET http://{_HOST}/{path} HTTP/1.1\r\nHost: {_HOST}\r\n{lines}\r\n".encode()


def _later(credentials: _Credentials) -> Callable[[Attempt], None]:
    """A good first request; the second, on the same connection, has other credentials."""

    def act(attempt: Attempt) -> None:
        good = proxy_authorization("alpha@v1", attempt.proxy.token("alpha@v1"))
        first = _request(attempt, good, "first")
        attempt.send(first, _request(attempt, credentials(attempt), attempt.marker), wait_for=b"200 OK")

    return act


def _anonymous(attempt: Attempt) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        attempt.get("api.example.com")
    attempt.fetch("api.example.com")


def permitted(attempt: Attempt) -> None:
    """The tool itself, over both paths."""
    headers = proxy_authorization("alpha@v1", attempt.proxy.token("alpha@v1"))
    attempt.get(_HOST, headers=headers)
    attempt.fetch(_HOST, headers=headers)


ATTACKS: Final = (
    *(Attack(name, _try(credentials), _CONTACTS) for name, credentials in _CREDENTIALS.items()),
    *(
        Attack(f"on a kept-alive connection: {name}", _later(_CREDENTIALS[name]))
        for name in ("no credential", "another tool's own credential", "an expired token")
    ),
    Attack(
        "no credential where one is needed",
        _anonymous,
        (("api.example.com", 80), ("api.example.com", 443)),
        policy="named callers only",
    ),
)
