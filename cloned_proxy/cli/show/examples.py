"""The two curl lines that `serve` prints: true for the policy that is really in force, or left out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.host_port import in_brackets
from cloned_proxy.policy.terms.rule import PatternKind, Rule

_ORDINARY_HOSTS: Final = ("example.com", "example.net", "example.org")
_HTTPS: Final = 443
_HTTP: Final = 80


def allowed_example(policy: Policy, proxy: str, now: float) -> str | None:
    """A curl line that an anonymous caller may copy and that passes; None when nothing passes without a credential."""
    for url, request in _candidates(policy):
        decision = decide(policy, ANONYMOUS, request, now)
        # An inspected flow needs the workspace CA on the command line, and a lease would be spent by trying it.
        if decision.passes and not decision.inspect and (decision.rule is None or decision.rule.max_uses is None):
            return _curl(proxy, url)
    return None


def denied_example(policy: Policy, proxy: str, now: float) -> str | None:
    """A curl line that is refused; None when nothing is (`report` mode)."""
    for host in _ORDINARY_HOSTS:
        if not decide(policy, ANONYMOUS, Request(host, _HTTPS), now).passes:
            return _curl(proxy, f"https://{host}/")
    return None


def _candidates(policy: Policy) -> Iterator[tuple[str, Request]]:
    for rule in policy.global_scope.allow.rules:
        if rule.pattern.kind in (PatternKind.EXACT, PatternKind.ADDRESS):
            yield _ask(rule)


def _ask(rule: Rule) -> tuple[str, Request]:
    host = rule.pattern.value
    authority = in_brackets(host)
    if _HTTPS in rule.ports:
        return f"https://{authority}/", Request(host, _HTTPS)
    port = _HTTP if _HTTP in rule.ports else min(rule.ports)
    suffix = "" if port == _HTTP else f":{port}"
    return f"http://{authority}{suffix}/", Request(host, port, "GET", "/")


def _curl(proxy: str, url: str) -> str:
    return f"curl --proxy {shlex.quote(proxy)} {shlex.quote(url)}"
