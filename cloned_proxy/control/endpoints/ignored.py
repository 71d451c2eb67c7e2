"""Hosts that are not shown among the blocked calls any more: they stay refused, and a person may show them again."""

from __future__ import annotations

from typing import Final

from cloned_proxy.control.endpoints.decisions import Host, Tool
from cloned_proxy.control.endpoints.terms import Reason
from cloned_proxy.control.operation import Call, Operation, Query, Strict
from cloned_proxy.policy.secrets.redact import redact
from cloned_proxy.store.workspaces.ignored import IgnoredHosts


class IgnoredAnswer(Strict):
    tool: str | None
    """None: for callers without a name."""
    host: str
    at: float
    actor: str
    why: str


class IgnoredListAnswer(Strict):
    items: list[IgnoredAnswer]


class Ignore(Strict):
    tool: Tool | None = None
    host: Host
    reason: Reason = ""


class ShowQuery(Query):
    tool: Tool | None = None
    host: Host


class ChangedAnswer(Strict):
    changed: bool
    """False when it was so already."""


def _list(call: Call) -> IgnoredListAnswer:
    return IgnoredListAnswer(
        items=[
            IgnoredAnswer(tool=found.tool, host=found.host, at=found.at, actor=found.actor, why=found.why)
            for found in _hosts(call).list()
        ]
    )


def _ignore(call: Call) -> ChangedAnswer:
    body: Ignore = call.body
    return ChangedAnswer(changed=_hosts(call).add(body.tool, body.host, actor=call.actor, why=redact(body.reason)))


def _show(call: Call) -> ChangedAnswer:
    query: ShowQuery = call.query
    return ChangedAnswer(changed=_hosts(call).remove(query.tool, query.host, actor=call.actor))


def _hosts(call: Call) -> IgnoredHosts:
    return IgnoredHosts(call.services.workspace.state_db, clock=call.services.clock)


OPERATIONS: Final = (
    Operation("GET", "/ignored", "Hosts that are not shown among the blocked calls", _list, IgnoredListAnswer),
    Operation("POST", "/ignored", "Ignore a host: not shown, still refused", _ignore, ChangedAnswer, body=Ignore),
    Operation("DELETE", "/ignored", "Show a host again", _show, ChangedAnswer, query=ShowQuery),
)
