"""What is wrong with a document, and where: of the policy, of a preset, of config.yaml. Light, for all who read one."""

from __future__ import annotations

from dataclasses import dataclass

type DocumentPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    path: str
    """`tools.demo@v1.allow[2].host`"""
    line: int | None
    message: str
    """What is wrong and what to write instead."""
