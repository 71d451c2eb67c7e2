"""What a fetch raises when the policy, here or at the proxy, says no."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cloned_proxy.policy.hints.hint import hint
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.vocabulary import Reason

REASON_FIELD = "x-cloned-proxy-reason"


class EgressBlockedError(Exception):
    """The request may not leave. Nothing of it has been sent to the host, unless a redirect led to it."""

    def __init__(
        self, decision: Decision, *, by_proxy: bool = False, decision_id: str | None = None, advice: str = ""
    ) -> None:
        self.decision = decision
        """The refusal as `policy.deciding.decide` gives it, with `reason`, `tool`, `host` and `rule`."""
        self.by_proxy = by_proxy
        """The policy file here let it pass, the proxy did not: a used-up lease, a limit, an address, another policy."""
        self.decision_id = decision_id
        """The id in the proxy's log; None for a decision made here, and where the proxy could not tell it (a
        CONNECT)."""
        self.hint = advice or hint(decision)
        """What to do: often the exact `cloned-proxy allow …` command."""
        request = decision.request
        host = decision.host.authority if decision.host is not None else request.host
        who = decision.tool or "an unnamed caller"
        super().__init__(f"{who}: {request.method or 'CONNECT'} {host}:{request.port}: {decision.reason}; {self.hint}")

    @property
    def reason(self) -> Reason:
        return self.decision.reason


def blocked_by_proxy(decision: Decision, headers: Mapping[str, str], body: bytes = b"") -> EgressBlockedError | None:
    """The error that an answer of the proxy amounts to; None when it is the answer of somebody else."""
    try:
        reason = Reason(headers.get(REASON_FIELD, ""))
    except ValueError:
        return None
    said = _json(body)
    refused = decision.denied(reason)
    return EgressBlockedError(
        refused, by_proxy=True, decision_id=said.get("decision_id"), advice=str(said.get("hint") or "")
    )


def _json(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
