"""The decision for a whole URL, as the wire would make it: what `tests:`, `explain` and SafeFetch ask; `HOST:PORT`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Final

from cloned_proxy.policy.callers.caller import Caller, IdentityRefusal
from cloned_proxy.policy.deciding.decide import NOTHING_SPENT, decide
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.registry import decide_in_the_clear
from cloned_proxy.policy.terms.vocabulary import Reason, Verdict

# Raw text on purpose: `urllib.parse` strips tabs and newlines and lower-cases, and a test of the policy must see
# what a caller would send. User information (`user@`) is refused, because it is how one host is dressed as another.
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<literal>[^\[\]/?#@]*)\]|(?P<name>[^\[\]/?#@:\\]*))(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?",
    re.IGNORECASE | re.ASCII,
)
_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f]")
_METHOD: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}", re.ASCII)
_DEFAULT_PORT: Final = {"http": 80, "https": 443}
_MAX_PORT: Final = 65_535


def decide_url(  # noqa: PLR0917  the order of `decide`, which it stands in for
    policy: Policy | None,
    caller: Caller,
    url: str,
    method: str | None,
    now: float,
    spent: Collection[str] = NOTHING_SPENT,
    *,
    ended: Collection[str] = NOTHING_SPENT,
) -> Decision:
    """The decision for `method` (default GET) on `url`; never raises.

    `https` asks for the CONNECT and, where TLS would be opened, for the request inside it; `http` asks for the
    request in absolute form. A URL that no such request could be made of is `malformed_request`.
    """
    match = _URL.fullmatch(url)
    verb = method or "GET"
    if match is None or _UNSAFE.search(url) or _METHOD.fullmatch(verb) is None:
        return _malformed(policy, caller, url)
    scheme = match["scheme"].lower()
    literal = match["literal"]
    if literal is not None and ":" not in literal:
        return _malformed(policy, caller, url)
    host = literal if literal is not None else match["name"]
    port = int(match["port"]) if match["port"] else _DEFAULT_PORT[scheme]
    request = Request(host, port, verb, (match["path"] or "/") + (match["query"] or ""))
    if scheme == "http":
        return decide_in_the_clear(decide(policy, caller, request, now, spent, ended=ended))
    tunnel = decide(policy, caller, replace(request, method=None, path=None), now, spent, ended=ended)
    return decide(policy, caller, request, now, spent, ended=ended) if tunnel.passes and tunnel.inspect else tunnel


def _malformed(policy: Policy | None, caller: Caller, url: str) -> Decision:
    tool = caller.claimed if isinstance(caller, IdentityRefusal) else caller.tool
    reason = Reason.POLICY_UNAVAILABLE if policy is None else Reason.MALFORMED_REQUEST
    return Decision(Verdict.DENY, reason, Request(url, 0), tool)


def split_port(text: str) -> tuple[str, int | None]:
    """`example.com:8443` as host and port; an IPv6 literal with a port stands in brackets. Raises ValueError."""
    scheme, is_url, rest = text.partition("://")
    authority = (rest if is_url else scheme).partition("/")[0]
    if "@" in authority:  # not quoted: what stands before it may be a password, and messages go on record
        raise ValueError(f"nothing may stand before a host, as with '@'; write {authority.rpartition('@')[2]}")
    if is_url:  # what people paste first
        raise ValueError(f"{text!r} is a URL; write the host alone: {authority}")
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not HOST:PORT; write an IPv6 address with a port as [2001:db8::1]:443")
        port = rest[1:]
        if rest == ":":
            raise ValueError(f"{text!r} ends in a colon without a port; write the port or leave the colon out")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            raise ValueError(f"{text!r} ends in a colon without a port; write the port or leave the colon out")
    if not port:
        return host, None
    # `isdecimal` alone would accept other scripts' digits, which `int` reads as well.
    if not (port.isascii() and port.isdecimal()) or int(port) > _MAX_PORT:
        raise ValueError(f"{text!r}: {port!r} is not a port; those are 1 to {_MAX_PORT}")
    return host, int(port)
