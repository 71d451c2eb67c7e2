"""What a shell may offer to complete: names that the workspace knows already, read without the weight of the rest.

Somebody waits for the answer with a finger on the Tab key, so this imports neither the policy's models nor the log, and
reads a bounded part of each. What cannot be read is not offered; nothing is written.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloned_proxy.share import share_path

if TYPE_CHECKING:
    from cloned_proxy.store.workspaces.workspace import Workspace

_MOST_BYTES: Final = 1024 * 1024
_ENTRIES: Final = 2000
"""How many of the newest entries of the log are read: what was denied just now is what somebody is about to allow."""
_MOST: Final = 200
_HARMLESS: Final = re.compile(r"[A-Za-z0-9*_\[][A-Za-z0-9.*_:@\[\]/-]{0,252}", re.ASCII)
"""Some shells evaluate what they are offered, and hosts of the log are whatever a caller wrote."""
_REGISTRIES: Final = ("cargo", "debian", "npm", "pypi")
"""`store.workspaces.presets.DERIVED`, which costs the models of the policy to ask."""
_APPROVALS: Final = "SELECT id FROM approvals WHERE state = 'pending' ORDER BY created DESC"
_VERSIONS: Final = "SELECT DISTINCT version FROM policy_versions ORDER BY seq DESC"
_RECENT: Final = f"(SELECT body, verdict, tool, type FROM entries ORDER BY seq DESC LIMIT {_ENTRIES})"  # noqa: S608  as below


def known(kind: str, workspace: Workspace) -> list[str]:
    """The values of one of KINDS, without doubles, at most some hundreds, each of harmless characters."""
    found: dict[str, None] = {}
    # A damaged file, a database of another version: no reason to disturb somebody who is typing.
    with contextlib.suppress(Exception):
        for value in _SOURCES[kind](workspace):
            if isinstance(value, str) and _HARMLESS.fullmatch(value):
                found[value] = None
            if len(found) >= _MOST:
                break
    return list(found)


def _rules(workspace: Workspace) -> Iterator[object]:
    """What `remove` takes: hosts of the policy, then the ids of its rules."""
    yield from _hosts(workspace)
    yield from _rows(workspace, "SELECT rule FROM rule_seen")


def _hosts(workspace: Workspace) -> Iterator[object]:
    policy = _policy(workspace)
    for section in (policy.get("global"), *_mapping(policy.get("tools")).values()):
        for name in ("allow", "deny"):
            for entry in _list(_mapping(section).get(name)):
                yield _mapping(entry).get("host") if isinstance(entry, dict) else entry


def _denied(workspace: Workspace) -> Iterator[object]:
    """What `allow` is for: hosts that were refused, the newest first, with the port where a rule needs it."""
    rows = _rows(
        workspace,
        "SELECT json_extract(body, '$.host') || CASE WHEN json_extract(body, '$.port') IN (80, 443) THEN '' "  # noqa: S608
        f"ELSE ':' || json_extract(body, '$.port') END FROM {_RECENT} WHERE type = 'decision' AND verdict = 'deny'",
    )
    yield from rows


def _asked(workspace: Workspace) -> Iterator[object]:
    yield from _denied(workspace)
    yield from _hosts(workspace)


def _tools(workspace: Workspace) -> Iterator[object]:
    yield from _mapping(_policy(workspace).get("tools"))
    yield from _rows(workspace, f"SELECT tool FROM {_RECENT}")  # noqa: S608  constants of this module


def _presets(workspace: Workspace) -> Iterator[object]:
    for directory in (workspace.root / "presets", share_path("config", "presets")):
        yield from (path.stem for path in sorted(directory.glob("*.yaml")))
    yield from _REGISTRIES


def _pipelines(_: Workspace) -> Iterator[object]:
    yield from (path.stem for path in sorted(share_path("config", "pipelines").glob("*.yaml")))


def _rows(workspace: Workspace, statement: str) -> Iterable[object]:
    import sqlite3  # noqa: PLC0415  presets and pipelines need none

    with contextlib.closing(sqlite3.connect(f"{workspace.state_db.as_uri()}?mode=ro", uri=True, timeout=0.2)) as state:
        return [row[0] for row in state.execute(f"{statement} LIMIT {_ENTRIES}")]


def _policy(workspace: Workspace) -> Mapping[Any, Any]:
    named = os.environ.get("CLONED_POLICY") or _document(workspace.config_file).get("policy")
    return _document(workspace.root / Path(str(named)).expanduser() if named else workspace.policy_file)


def _document(path: Path) -> Mapping[Any, Any]:
    """A YAML file as mappings, lists and texts; empty where there is none. Never what a decision is made from."""
    import yaml  # noqa: PLC0415  as above

    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError:
        return {}
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    return {} if len(raw) > _MOST_BYTES else _mapping(yaml.load(raw, Loader=loader))  # noqa: S506  texts alone


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


_SOURCES: Final[Mapping[str, Callable[[Workspace], Iterable[object]]]] = {
    "denied": _denied,
    "hosts": _asked,
    "rules": _rules,
    "tools": _tools,
    "presets": _presets,
    "pipelines": _pipelines,
    "versions": lambda workspace: _rows(workspace, _VERSIONS),
    "approvals": lambda workspace: _rows(workspace, _APPROVALS),
    "devices": lambda workspace: _rows(workspace, "SELECT id FROM devices ORDER BY created DESC"),
}
KINDS: Final = frozenset(_SOURCES)
