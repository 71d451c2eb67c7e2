"""Builds policies for the tables: the same document form as a file, read by the same parser."""

from __future__ import annotations

from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import parse_policy


def policy_of(**document: object) -> Policy:
    document = {"version": 1, "anonymous": "global", **{k.replace("global_", "global"): v for k, v in document.items()}}
    return parse_policy(document, source="policy.yaml", version="test", lines={})
