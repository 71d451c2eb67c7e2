"""Sections of a policy for tools that have none yet: each with a list of its own, and nothing in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.yaml_edit import Value, add_section
from cloned_proxy.store.files.yaml_reader import read_document
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.policy_edit import EditResult
from cloned_proxy.store.workspaces.shipped_policy import head_text


def add_tool_sections(
    service: EditService, tools: Iterable[str], *, report: bool, actor: str, why: str, dry_run: bool = False
) -> EditResult:
    """Adds a section to each tool that has none: nothing is allowed in it, the global rules included.

    With `report` everything passes there and what would be refused is recorded. Raises PolicyError or StoreError.
    """
    wanted = tuple(dict.fromkeys(tools))
    return service.rewrite(
        lambda raw: _with(service.path, raw, wanted, report=report),
        summary=f"sections for {', '.join(wanted)}{' in report mode' if report else ''}",
        actor=actor,
        why=why,
        dry_run=dry_run,
    )


def _with(path: Path, raw: bytes, tools: Iterable[str], *, report: bool) -> str:
    empty = read_document(raw, str(path)).data is None
    text = head_text() if empty else raw.decode()
    section: dict[str, Value] = {**({"mode": "report"} if report else {}), "inherit_global": False, "allow": []}
    for tool in tools:
        before: Any = read_document(text.encode(), str(path)).data
        if tool in (before.get("tools") or {}):
            continue
        try:
            text = add_section(text, ("tools", tool), section)
            after = read_document(text.encode(), str(path)).data
        except (ValueError, IndexError, StoreError) as error:
            raise StoreError(f"{path}: its layout cannot be edited safely ({error}); edit it by hand") from error
        if after != {**before, "tools": {**(before.get("tools") or {}), tool: section}}:
            raise StoreError(f"{path}: its layout cannot be edited safely; edit it by hand")
    return text
