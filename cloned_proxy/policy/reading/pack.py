"""Cloned policy packs: their `allowlists` become entries of a policy. Pure; the store's edit service writes them."""

from __future__ import annotations

from dataclasses import dataclass

from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.policy.terms.network import parse_destination
from cloned_proxy.policy.terms.problem import Problem
from cloned_proxy.policy.terms.rule import HostPattern
from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE


@dataclass(frozen=True, slots=True)
class PackAddition:
    """One host, or network, to allow."""

    scope: str
    """`global`, or the tool id; a connector is a tool named after it."""
    pattern: HostPattern


@dataclass(frozen=True, slots=True)
class Pack:
    """What a pack asks for. With any problem nothing should be written."""

    additions: tuple[PackAddition, ...]
    problems: tuple[Problem, ...]


def read_pack(document: object) -> Pack:
    """Reads `allowlists.egress_domains`, `egress_by_tool` and `egress_by_connector`; other parts are not about egress.

    Never raises: whatever is wrong is a problem with its path.
    """
    additions: dict[PackAddition, None] = {}
    problems: list[Problem] = []
    allowlists = document.get("allowlists") if isinstance(document, dict) else None
    if not isinstance(allowlists, dict):
        problem = Problem("allowlists", None, "a Cloned policy pack has a mapping 'allowlists'; this file has none")
        return Pack((), (problem,))
    if (domains := allowlists.get("egress_domains")) is not None:
        _read_hosts(domains, GLOBAL_SCOPE, "allowlists.egress_domains", additions, problems)
    for key in ("egress_by_tool", "egress_by_connector"):
        _read_group(allowlists.get(key), f"allowlists.{key}", additions, problems)
    return Pack(tuple(additions), tuple(problems))


def _read_group(group: object, path: str, additions: dict[PackAddition, None], problems: list[Problem]) -> None:
    if group is None:
        return
    if not isinstance(group, dict):
        problems.append(Problem(path, None, "this is a mapping from a name to a list of hosts"))
        return
    for name, hosts in group.items():
        try:
            tool = tool_id(name)
        except ValueError as error:
            problems.append(Problem(f"{path}.{name}", None, str(error)))
        else:
            _read_hosts(hosts, tool, f"{path}.{name}", additions, problems)


def _read_hosts(
    hosts: object, scope: str, path: str, additions: dict[PackAddition, None], problems: list[Problem]
) -> None:
    if not isinstance(hosts, list):
        problems.append(Problem(path, None, "this is a list of hosts; write [...]"))
        return
    for index, host in enumerate(hosts):
        try:
            if not isinstance(host, str):
                raise ValueError(f"{host!r} is not a host; quote it")  # noqa: TRY004, TRY301  one way to report
            additions[PackAddition(scope, parse_destination(host, denies=False))] = None
        except ValueError as error:
            problems.append(Problem(f"{path}[{index}]", None, str(error)))
