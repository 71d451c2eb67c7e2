"""How much of a plain request the rules of a host look at: pure."""

from __future__ import annotations

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.rule import Host


def looks_at_requests(policy: Policy, tool: str | None, host: Host) -> bool:
    """Whether any rule for the host, an allow or a deny, looks at more than port and time: at method, path or package.

    Where none does, all plain requests of this tool to one port of the host are decided alike. Rules that could not
    apply count, too: that only says yes more often.
    """
    scopes = (policy.scope_of(tool), policy.global_scope)
    return any(
        rule.methods is not None or rule.paths is not None or rule.registry is not None
        for scope in scopes
        for rule in (*scope.allow.matching(host), *scope.deny.matching(host))
    )
