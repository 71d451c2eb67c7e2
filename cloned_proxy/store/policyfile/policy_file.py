"""From the bytes of a policy file to a `Policy` that is fit to be in force."""

from __future__ import annotations

from pathlib import Path

from cloned_proxy.policy.deciding.self_test import failed_tests
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.model.preset import used_names
from cloned_proxy.policy.reading.parse import PolicyError, parse_policy
from cloned_proxy.store.files.policy_bytes import read_policy_bytes, version_of
from cloned_proxy.store.files.yaml_reader import read_document
from cloned_proxy.store.workspaces.presets import SHIPPED, PresetShelf


def load_policy(path: Path, now: float, presets: PresetShelf = SHIPPED) -> Policy:
    """The policy in `path`, its `tests:` passed as of `now` (Unix seconds). Raises PolicyError, StoreError.

    `presets` is the workspace's shelf; without it no local preset is known, and a policy that uses one is refused.
    """
    return policy_from_bytes(read_policy_bytes(path), source=str(path), now=now, presets=presets)


def policy_from_bytes(raw: bytes, *, source: str, now: float, presets: PresetShelf = SHIPPED) -> Policy:
    """The one way from text to rules, for the watcher, the edit service and `policy check`. Raises as `load_policy`."""
    policy = parse_bytes(raw, source=source, presets=presets)
    if failed := failed_tests(policy, now):
        raise PolicyError(tuple(test.problem for test in failed), source)
    return policy


def parse_bytes(raw: bytes, *, source: str, presets: PresetShelf = SHIPPED) -> Policy:
    """What the text says, whether or not its `tests:` hold. Raises PolicyError, StoreError."""
    document = read_document(raw, source)
    return parse_policy(
        document.data,
        source=source,
        version=version_of(raw),
        lines=document.lines,
        presets=presets.load(used_names(document.data)),
    )
