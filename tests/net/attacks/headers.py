"""What is the proxy's own business and must never arrive upstream, on requests that are allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.net.attacks.attempt import Attack, Attempt, proxy_authorization, read_all

# Name and value of each field; `$M` is the marker.
_FIELDS: Final = (
    ("X-Cloned-Tool", "$M"),
    ("X-Cloned-Anything", "$M"),
    ("x-cLONED-odd", "$M"),
    ("Proxy-Connection", "$M"),
    ("Proxy-Authenticate", "$M"),
    ("Keep-Alive", "$M"),
    ("Connection", "X-Listed\r\nX-Listed: $M"),
    ("TE", "$M"),
)


def _plain(name: str, value: str) -> Callable[[Attempt], None]:
    def act(attempt: Attempt) -> None:
        request = f"GET http://api.example.com/ok HTTP/1.1\r\nHost: api.example.com\r\n{name}: {value}\r\n\r\n"
        attempt.send(request.replace("$M", attempt.marker).encode())

    return act


def _inside(name: str, value: str) -> Callable[[Attempt], None]:
    def act(attempt: Attempt) -> None:
        host = "inspected.example.com"
        with attempt.tls(f"{host}:443", host) as secure:
            request = f"GET /ok/x HTTP/1.1\r\nHost: {host}\r\n{name}: {value}\r\n\r\n"
            secure.sendall(request.replace("$M", attempt.marker).encode())
            read_all(secure)

    return act


def _credential(attempt: Attempt) -> str | None:
    """A real token: whoever gets it is the tool."""
    token = attempt.proxy.token("alpha@v1")
    headers = {**proxy_authorization("alpha@v1", token), "X-Cloned-Tool-Token": token}
    attempt.get("alpha.example.com", headers=headers)
    attempt.fetch("alpha.example.com", headers=headers)
    attempt.world.settle()
    basic = headers["Proxy-Authorization"].removeprefix("Basic ")
    for secret in (token, basic):
        if where := attempt.world.saw(secret):
            return f"the credential arrived at {where}"
    return None


ATTACKS: Final = (
    *(Attack(f"http: {name}", _plain(name, value), paths=("gate",)) for name, value in _FIELDS),
    *(Attack(f"inspected: {name}", _inside(name, value), paths=("inspected",)) for name, value in _FIELDS),
    Attack("a tool's credential", _credential, marker_is_leak=False),
)
