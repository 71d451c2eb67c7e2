"""What serves a workspace now, in its own words.

Asked through the workspace itself: the user's runtime directory, where other workspaces are found, need not be the one
of the proxy (a service has a /tmp of its own, a container has everything of its own but the workspace).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cloned_proxy.local.control_client import ask_all
from cloned_proxy.store.workspaces.workspace import Workspace

_REACHED_AT: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  compared, not bound
"""Who listens on every address is reached on this one."""


@dataclass(frozen=True, slots=True)
class LiveProxy:
    """The answers of all its processes, put together."""

    addresses: dict[str, str | None]
    """`host:port` of `proxy`, `control` and `metrics`; None for what is off."""
    workers: int
    problems: tuple[str, ...]
    """Why it should get no traffic now."""
    tunnels: int
    plane: dict[str, str]
    """What serves the common case: `serving` is `native` or `python`, and `why`."""
    waiting: tuple[str, ...]
    """For what clients have waited within the last minute: a `WaitReason` each."""
    policy: dict[str, Any]
    """`source`, `version`, `mode` and `rules` of the policy in force, and the `error` of a file that is not."""

    def url(self, name: str) -> str | None:
        """Where programs on this machine reach it; None for what is off."""
        address = self.addresses.get(name)
        if address is None:
            return None
        host, _, port = address.rpartition(":")
        return f"http://{_REACHED_AT.get(host, host)}:{port}"


def live_proxy(workspace: Workspace) -> LiveProxy | None:
    """None when no process answers. A borrowed proxy counts only where no other one serves: it ends with its runs."""
    answers = ask_all(workspace.root, {"op": "status"})
    answers = [answer for answer in answers if not answer.get("standby")] or answers
    if not answers:
        return None
    first = answers[0]
    return LiveProxy(
        addresses=first.get("addresses", {}),
        workers=len(answers),
        problems=tuple(dict.fromkeys(text for answer in answers for text in answer["problems"])),
        tunnels=sum(answer["tunnels"] for answer in answers),
        plane=first.get("plane", {"serving": "python", "why": "a version that does not say why"}),
        waiting=tuple(dict.fromkeys(reason for answer in answers for reason in answer.get("waiting", ()))),
        policy={name: first[name] for name in ("source", "version", "mode", "rules", "error")},
    )
