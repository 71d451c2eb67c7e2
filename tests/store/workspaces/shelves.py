"""A preset of a workspace's own, and what a policy allows by it."""

from __future__ import annotations

from pathlib import Path

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.store.workspaces.presets import PresetShelf

PRESET = "name: {name}\nabout: for tests\nsource: https://example.com/\nchecked: 2026-11-27\nallow: [{hosts}]\n"


def write(shelf: PresetShelf, name: str, *hosts: str) -> Path:
    assert shelf.local is not None
    shelf.local.mkdir(exist_ok=True)
    path = shelf.local / f"{name}.yaml"
    path.write_text(PRESET.format(name=name, hosts=", ".join(hosts)))
    return path


def allowed(policy: Policy | None) -> set[str]:
    return {str(rule.pattern) for rule in policy.rules} if policy is not None else set()
