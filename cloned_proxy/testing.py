"""A policy in the tests of your own project: read as the proxy reads it, and asked without a proxy.

policy = load_policy("policy.yaml")
assert decide(policy, "https://api.github.com/repos/o/r", tool="release.notes@v1").passes
"""

from __future__ import annotations

import time
from pathlib import Path

from cloned_proxy.policy.callers.caller import ANONYMOUS, Principal
from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.policy.deciding.url import decide_url
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.store.policyfile import policy_file
from cloned_proxy.store.workspaces.presets import PresetShelf


def load_policy(path: Path | str, *, now: float | None = None) -> Policy:
    """The policy in a file; its own `tests:` have passed. `now` (Unix seconds) is for leases; None is this moment.

    Its presets are those of the folder `presets` beside it, as in a workspace, and those that come with the program.
    Raises PolicyError, which names each problem with its line, and StoreError for a file that cannot be read.
    """
    shelf = PresetShelf(Path(path).parent / "presets")
    return policy_file.load_policy(Path(path), time.time() if now is None else now, shelf)


def decide(
    policy: Policy, url: str, *, tool: str | None = None, method: str = "GET", now: float | None = None
) -> Decision:
    """What the proxy would decide for `method` on `url` by `tool`, or by a caller without a credential.

    A name is not looked up: that its addresses are allowed as well is for the proxy to see. `now` as in `load_policy`.
    Raises ValueError for a tool id that no tool can have. Any other bad input is a denial, `malformed_request`.
    """
    caller = ANONYMOUS if tool is None else Principal(tool_id(tool))
    return decide_url(policy, caller, url, method, time.time() if now is None else now)
