"""What a tool may know of itself, at `http://cloned.internal`: its rules, its refusals, and the verdict on a URL.

Nothing of it opens anything, and nothing of other tools or of the host is in it: no file, no injected header, no
address that a name resolves to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.deciding.url import decide_url
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.policy.terms.vocabulary import Mode
from cloned_proxy.store.audit.audit_log import AuditLog

RULES_PATH: Final = "/v1/egress/rules"
DENIALS_PATH: Final = "/v1/egress/denials"
VERDICT_PATH: Final = "/v1/egress/verdict"
VIEW_PATHS: Final = frozenset({RULES_PATH, DENIALS_PATH, VERDICT_PATH})
_WINDOW_SECONDS: Final = 24 * 3600.0
_LOOKED_AT: Final = 1000
_TOLD: Final = 50


class OwnView:
    """Blocks on the disk for refusals: asked in a thread."""

    def __init__(self, state_db: Path, clock: Callable[[], float]) -> None:
        self._state_db = state_db
        self._clock = clock

    def answer(self, caller: Principal, policy: Policy, path: str) -> dict[str, Any]:
        """The body of the answer to a GET of one of VIEW_PATHS. Raises StoreError, and ValueError for a bad query."""
        target, _, query = path.partition("?")
        tool = caller.tool or ""
        if target == RULES_PATH:
            return self._rules(tool, policy)
        if target == DENIALS_PATH:
            return {"tool": tool, "denials": self._denials(tool)}
        return self._verdict(caller, policy, query)

    def _rules(self, tool: str, policy: Policy) -> dict[str, Any]:
        scope, now = policy.scope_of(tool), self._clock()
        scopes = [scope, policy.global_scope] if scope.inherit_global else [scope]
        allow = [rule for each in scopes for rule in each.allowing if rule.expires is None or rule.expires > now]
        deny = [rule for each in (scope, policy.global_scope) for rule in each.deny.rules]
        return {
            "tool": tool,
            "mode": (scope.mode or policy.mode).value,
            "default": "allow" if (scope.mode or policy.mode) is Mode.REPORT else "deny",
            "allow": [_told(rule) for rule in allow],
            "deny": [str(rule.pattern) for rule in deny if rule.paths is None],
            "may_request_for": sorted(scope.may_request),
        }

    def _denials(self, tool: str) -> list[dict[str, Any]]:
        """The newest of each kind first."""
        found: dict[tuple[object, ...], dict[str, Any]] = {}
        since = self._clock() - _WINDOW_SECONDS
        with AuditLog(self._state_db) as log:
            for entry in log.entries(types=("decision",), denied=True, tool=tool, since=since, last=_LOOKED_AT):
                body = entry.body
                key = tuple(body.get(name) for name in ("host", "port", "method", "reason"))
                known = found.pop(key, {"count": 0})
                found[key] = {
                    **{name: body.get(name) for name in ("host", "port", "method", "path", "reason")},
                    "decision_id": body.get("id"),
                    "at": body["at"],
                    "count": known["count"] + entry.times,
                }
        return list(reversed(found.values()))[:_TOLD]

    def _verdict(self, caller: Principal, policy: Policy, query: str) -> dict[str, Any]:
        given = parse_qs(query, keep_blank_values=True)
        if set(given) - {"url", "method"} or len(given.get("url", ())) != 1:
            raise ValueError(f"write {VERDICT_PATH}?url=https%3A%2F%2Fapi.example.com%2F, and method=POST if it is one")
        url, method = given["url"][0], given.get("method", ["GET"])[0]
        decision = decide_url(policy, caller, url, method, self._clock())
        return {
            "tool": caller.tool,
            "url": url,
            "method": method,
            "verdict": decision.verdict.name.lower(),
            "reason": decision.reason.value,
            "host": decision.request.host,
            "port": decision.request.port,
        }


def _told(rule: Rule) -> dict[str, Any]:
    return {
        "host": str(rule.pattern),
        "ports": sorted(rule.ports),
        "methods": sorted(rule.methods) if rule.methods is not None else None,
        "paths": [path.text for path in rule.paths] if rule.paths is not None else None,
        "protocols": rule.protocols,
        "registry": None if rule.registry is None else rule.registry.as_value(),
        "expires": rule.expires,
        "max_uses": rule.max_uses,
    }
