"""The next step for someone who was denied: the exact command, or why there is none."""

from __future__ import annotations

from cloned_proxy.policy.model import Decision


def hint(decision: Decision) -> str:
    """For `host_not_allowed` and the like the `cloned-proxy allow …` command, quoted for a shell; "" for a pass."""
    raise NotImplementedError
