"""The check of `doctor` on rules with `registry`."""

from __future__ import annotations

import time
from pathlib import Path

from cloned_proxy.cli.commands.doctor.checks import Check
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.vocabulary import Mode
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.workspaces.workspace import Workspace


def registry_check(workspace: Workspace, policy_flag: Path | None) -> Check | None:
    """None where no rule has one, and where the policy cannot be read: another check says so."""
    path = workspace.policy_path(policy_flag)
    try:
        policy = load_policy(path, time.time(), workspace.presets)
    except (PolicyError, StoreError, OSError):
        return None
    rules = [(rule, rule.registry) for rule in policy.rules if rule.registry is not None]
    if not rules:
        return None
    for rule, registry in rules:
        if registry.min_age <= 0:
            detail = f"{rule.origin}: with min_age 0s nothing of {rule.pattern} is too young"
            return Check("registries", "warn", detail, "write the age that you want, such as min_age: 7d")
    reporting = policy.mode is Mode.REPORT or policy.reporting
    if reporting:
        detail = "mode: report shows all metadata, and only records the files that are too young"
        return Check("registries", "warn", detail, "mode: enforce refuses them")
    kinds = ", ".join(sorted({f"{registry.kind} on {rule.pattern}" for rule, registry in rules}))
    return Check(
        "registries", "ok", f"{kinds}; ages by this machine's clock, {time.strftime('%Y-%m-%d', time.gmtime())}"
    )
