"""Taking presets into a policy and out again, and writing down those that are derived from the user's settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.list_edit import change_list, list_at, remove_entry
from cloned_proxy.store.files.yaml_edit import add_items, render
from cloned_proxy.store.files.yaml_reader import read_document
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.policy_edit import EditResult
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.workspaces.presets import DERIVED
from cloned_proxy.store.workspaces.registries import ClientRegistry, Clients, client_of, derive
from cloned_proxy.store.workspaces.shipped_policy import head_text
from cloned_proxy.store.workspaces.workspace import Workspace
from cloned_proxy.telemetry.events import PolicyEvent

_BY_US: Final = "derived from the settings of "


@dataclass(frozen=True, slots=True)
class Pinned:
    """A derived preset as it is about to be written."""

    name: str
    found: tuple[ClientRegistry, ...]
    text: str


def pinned(name: str, now: float, clients: Clients | None = None) -> Pinned:
    """What the user's own client is set to use now, as a preset. Raises StoreError."""
    found = derive(name, clients)
    client = client_of(name)
    lines = [
        f"# Written by `cloned-proxy allow --preset {name}`; run it again when {client}'s settings have changed.",
        f"name: {name}",
        f"about: Packages from where {client} is set to fetch them",
        f"source: {_BY_US}{client}",
        f"checked: {datetime.fromtimestamp(now, UTC):%Y-%m-%d}",
        "allow:",
    ]
    lines += [f"  - {render({'host': each.host, 'ports': [each.port], 'reason': each.where})}" for each in found]
    return Pinned(name, found, "\n".join((*lines, "")))


def is_pinned(workspace: Workspace, name: str) -> bool:
    """Whether the workspace's preset of this name was derived, and may be derived anew."""
    shelf = workspace.presets
    return name in DERIVED and shelf.is_local(name) and shelf.read(name).source.startswith(_BY_US)


def drifted(workspace: Workspace, name: str, clients: Clients | None = None) -> tuple[str, ...]:
    """The hosts that the client uses now and the written preset does not hold. Raises StoreError."""
    if not is_pinned(workspace, name):
        return ()
    held = {entry.get("host") for entry in workspace.presets.read(name).allow if isinstance(entry, dict)}
    return tuple(sorted({each.host for each in derive(name, clients)} - held))


def use_presets(
    service: EditService,
    names: Sequence[str],
    *,
    tool: str | None,
    actor: str,
    why: str,
    now: float,
    dry_run: bool = False,
    update_tests: bool = False,
    clients: Clients | None = None,
) -> tuple[EditResult, tuple[Pinned, ...]]:
    """Puts presets into `use` of one scope; derived ones are looked up and written first. All of it, or nothing.

    A local file of a derived preset's name that somebody wrote by hand is used as it is. Raises PolicyError,
    StoreError.
    """
    workspace = service.workspace
    by_hand = [name for name in names if workspace.presets.is_local(name) and not is_pinned(workspace, name)]
    derived = tuple(pinned(name, now, clients) for name in names if name in DERIVED and name not in by_hand)
    known = dict.fromkeys(names)
    summary = f"use {', '.join(known)}{f' for {tool}' if tool else ''}"
    texts = {each.name: each.text for each in derived}
    with presets_written(service, texts, actor=actor, why=why, now=now, dry_run=dry_run):
        result = service.rewrite(
            lambda text: _with(service.path, text, known, tool),
            summary=summary,
            actor=actor,
            why=why,
            dry_run=dry_run,
            update_tests=update_tests,
        )
        if not result.changed:  # what a preset says anew may be what the policy's own tests forbid
            load_policy(service.path, now, service.presets)
    return result, derived


def drop_presets(
    service: EditService,
    names: Sequence[str],
    *,
    tool: str | None,
    actor: str,
    why: str,
    dry_run: bool = False,
    update_tests: bool = False,
) -> tuple[EditResult, tuple[str, ...]]:
    """Takes presets out of `use` of one scope; the names that were not there are returned. Raises as `use_presets`."""
    missing: list[str] = []

    def change(raw: bytes) -> str:
        missing.clear()
        text, place = raw.decode(), (*_scope(tool), "use")
        for name in dict.fromkeys(names):
            listed = _listed(service.path, text, place)
            if name in listed:
                text = remove_entry(service.path, text, place, listed.index(name))
            else:
                missing.append(name)
        return text

    summary = f"no longer use {', '.join(names)}{f' for {tool}' if tool else ''}"
    result = service.rewrite(change, summary=summary, actor=actor, why=why, dry_run=dry_run, update_tests=update_tests)
    return result, tuple(missing)


def _with(path: Path, raw: bytes, names: Mapping[str, None], tool: str | None) -> str:
    empty = read_document(raw, str(path)).data is None
    text, place = head_text() if empty else raw.decode(), (*_scope(tool), "use")
    new = [name for name in names if name not in _listed(path, text, place)]
    if not new:
        return text
    return change_list(path, text, place, lambda t: add_items(t, place, new), lambda listed: listed.extend(new))


def _listed(path: Path, text: str, place: tuple[str, ...]) -> list[object]:
    document = read_document(text.encode(), str(path)).data
    try:
        return list(list_at(document if document is not None else {}, place))
    except (AttributeError, TypeError) as error:
        raise StoreError(f"{path}: {'.'.join(place)} is not a list of presets; put it right by hand") from error


def _scope(tool: str | None) -> tuple[str, ...]:
    return ("global",) if tool is None else ("tools", tool)


@contextlib.contextmanager
def presets_written(
    service: EditService, texts: Mapping[str, str], *, actor: str, why: str, now: float, dry_run: bool
) -> Iterator[None]:
    """The derived presets in their place while the policy is edited; as they were, should that fail."""
    local = service.workspace.presets.local
    wanted = {name: text.encode() for name, text in texts.items()}
    if dry_run or local is None:
        service.presets = service.presets.with_pending(wanted)
        yield
        return
    changed = {name: text for name, text in wanted.items() if _read(local / f"{name}.yaml") != text}
    if not changed:
        yield
        return
    service.workspace.create()
    local.mkdir(mode=0o700, exist_ok=True)
    before = {name: _read(local / f"{name}.yaml") for name in changed}
    event = PolicyEvent(now, "edit", actor, f"write presets {', '.join(changed)}", why, "")
    try:
        with AuditLog(service.workspace.state_db) as log, log.appending(event):
            for name, text in changed.items():
                write_atomically(local / f"{name}.yaml", text)
        yield
    except BaseException:
        for name, old in before.items():
            if old is None:
                (local / f"{name}.yaml").unlink(missing_ok=True)
            else:
                write_atomically(local / f"{name}.yaml", old)
        raise


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
