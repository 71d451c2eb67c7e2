"""`public: true` of a tool, and the limits that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.list_edit import put_values
from cloned_proxy.store.files.yaml_edit import Value
from cloned_proxy.store.files.yaml_reader import read_document
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.policy_edit import EditResult
from cloned_proxy.store.workspaces.shipped_policy import head_text

_BOUNDS_NO_CALL: Final = {"denials_per_minute"}


class UnboundedError(StoreError):
    """A tool without limits of what goes out may not get the public internet."""


def open_public_internet(
    service: EditService,
    tool: str,
    limits: Mapping[str, Value],
    *,
    actor: str,
    why: str,
    dry_run: bool = False,
    update_tests: bool = False,
) -> EditResult:
    """The tool may reach every public host, within these limits and those that it has already.

    Raises UnboundedError, PolicyError, StoreError, or ForbiddenByTestsError.
    """
    bounds = "".join(f" {name}={value}" for name, value in limits.items())
    return service.rewrite(
        lambda raw: _with(service.path, raw, tool, limits),
        summary=f"allow THE WHOLE PUBLIC INTERNET for {tool}{bounds}",
        actor=actor,
        why=why,
        dry_run=dry_run,
        update_tests=update_tests,
    )


def _with(path: Path, raw: bytes, tool: str, limits: Mapping[str, Value]) -> str:
    text = head_text() if read_document(raw, str(path)).data is None else raw.decode()
    text = put_values(path, text, ("tools", tool), {"public": True})
    if limits:
        text = put_values(path, text, ("tools", tool, "limits"), limits)
    policy: Any = read_document(text.encode(), str(path)).data
    if not (policy["tools"][tool].get("limits") or {}).keys() - _BOUNDS_NO_CALL:
        raise UnboundedError(f"{path}: {tool} has no limits")
    return text
