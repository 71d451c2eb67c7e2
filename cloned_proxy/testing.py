"""A policy in the tests of your own project: read as the proxy reads it, and asked without a proxy.

policy = load_policy("policy.yaml")
assert decide(policy, "https://api.github.com/repos/o/r", tool="release.notes@v1").passes
"""

from __future__ import annotations

import time
from pathlib import Path

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.callers.identity import valid_tool_id
from cloned_proxy.policy.deciding.url import decide_url
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.store.policyfile import policy_file


def load_policy(path: Path | str, *, now: float | None = None) -> Policy:
    """The policy in a file; its own `tests:` have passed. `now` (Unix seconds) is for leases; None is this moment.

    Raises PolicyError, which names each problem with its line, and StoreError for a file that cannot be read.
    """
    return policy_file.load_policy(Path(path), time.time() if now is None else now)


def decide(
    policy: Policy, url: str, *, tool: str | None = None, method: str = "GET", now: float | None = None
) -> Decision:
    """What the proxy would decide for `method` on `url` by `tool`, or by a caller without a credential.

    A name is not looked up: that its addresses are allowed as well is for the proxy to see. `now` as in `load_policy`.
    Raises ValueError for a tool id that no tool can have. Any other bad input is a denial, `malformed_request`.
    """
    if tool is not None and not valid_tool_id(tool):
        raise ValueError(f"{tool!r} is not a tool id; write one such as cloned.mcp.web.search@v1")
    caller = ANONYMOUS if tool is None else Principal(tool)
    return decide_url(policy, caller, url, method, time.time() if now is None else now)
