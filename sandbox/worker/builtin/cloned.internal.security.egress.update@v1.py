"""Asks a person for a change of the egress policy. Nothing changes before somebody has approved it.

Input {"scope": "tool"|"global", "tool_id"?, "domains": [...], "action"?: "allow"|"deny", "for"?, "uses"?, "reason"?};
output is the request: {"id", "state": "pending", "expires", ...}. For whom this tool may ask is `may_request` of its
own rules.
"""

from __future__ import annotations

from typing import Any

from egress import fetch_json

REQUESTS = "http://cloned.internal/v1/egress/requests"


def run(tool_input: Any, ctx: Any) -> dict[str, Any]:  # noqa: ARG001  the interface of all tools
    """Opens the request. Raises EgressError with the proxy's words, ValueError."""
    if not isinstance(tool_input, dict):
        raise ValueError("the input names at least the domains")  # noqa: TRY004  as the other tools
    given = {name: value for name, value in tool_input.items() if value is not None}
    answer: dict[str, Any] = fetch_json(REQUESTS, body=given)
    return answer
