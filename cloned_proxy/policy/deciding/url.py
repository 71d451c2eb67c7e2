"""The decision for a whole URL, as the wire would make it: what `tests:`, `explain` and SafeFetch ask."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Final

from cloned_proxy.policy.callers.caller import Caller, IdentityRefusal
from cloned_proxy.policy.deciding.decide import NOTHING_SPENT, decide
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.policy.terms.http_token import MAX_METHOD, TOKEN_CHARACTERS
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
_METHOD: Final = re.compile(rf"[{TOKEN_CHARACTERS}]{{1,{MAX_METHOD}}}", re.ASCII)
_DEFAULT_PORT: Final = {"http": 80, "https": 443}


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
