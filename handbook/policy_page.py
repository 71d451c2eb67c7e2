"""docs/policy-reference.md: every key of a policy and of a preset, from the models that read them."""

from __future__ import annotations

from typing import Final

from cloned_proxy.policy.reading import documents
from handbook.reference import documents_of, page, sections
from handbook.site import ROOT

_KINDS: Final = {
    "InjectDocument.header": "name of a header",
    "InjectDocument.value": "text with `${vault:NAME}`",
    "RegistryDocument.min_age": "duration, at most 3650d",
    "RuleDocument.host": "host",
    "RuleDocument.cidr": "network",
    "RuleDocument.ports": "list of ports, not empty",
    "RuleDocument.methods": "list of methods, not empty",
    "RuleDocument.paths": "list of path patterns, not empty",
    "RuleDocument.expires": "time",
    "RuleDocument.idle": "duration, 1s to 7d",
    "DenyDocument.host": "host",
    "DenyDocument.cidr": "network",
    "DenyDocument.paths": "list of path patterns, not empty",
    "DenyDocument.except": "list of hosts, not empty",
    "DenyDocument.expires": "time",
    "LimitsDocument.bytes_per_hour": "size, at least 1",
    "GlobalDocument.allow": "list of hosts and rules",
    "GlobalDocument.deny": "list of hosts and denies",
    "ToolDocument.allow": "list of hosts and rules",
    "ToolDocument.deny": "list of hosts and denies",
    "ToolDocument.hold": "duration, at most 60s",
    "PolicyDocument.tools": "map of tool id to section",
    "PresetDocument.checked": "date",
    "PresetDocument.allow": "list of hosts and rules, not empty",
    "PresetDocument.quiet": "list of hosts",
    "PresetRuleDocument.host": "host",
    "PresetRuleDocument.ports": "list of ports",
    "PresetRuleDocument.methods": "list of methods",
    "PresetRuleDocument.paths": "list of path patterns",
    "PresetRuleDocument.protocols": "list of `tls`, `tcp` or `ssh`",
}
"""What functions of `policy` read: the annotations know only what they make of it."""


def policy_page() -> str:
    """The page as it should be."""
    policy = documents_of(ROOT / "handbook" / "policy.yaml")
    preset = documents_of(ROOT / "handbook" / "preset.yaml")
    tool = next(iter(policy[0]["tools"].values()))
    known: set[type] = set()
    found = [
        *sections(documents.PolicyDocument, policy, "(the file)", "", _KINDS, known),
        *sections(
            documents.RuleDocument, tool["allow"], "(a rule of `allow`)", "It has a `host` or a `cidr`.", _KINDS, known
        ),
        *sections(
            documents.DenyDocument,
            policy[0]["global"]["deny"],
            "(a rule of `deny`)",
            "It covers every port and method.",
            _KINDS,
            known,
        ),
        *sections(documents.PresetDocument, preset, "(a preset)", "`.cloned/presets/NAME.yaml`.", _KINDS, known),
        *sections(
            documents.PresetRuleDocument,
            preset[0]["allow"],
            "(a rule of a preset)",
            "It has none of the keys that open more, add secrets or set terms.",
            _KINDS,
            known,
        ),
    ]
    return page("policy-reference", found)
