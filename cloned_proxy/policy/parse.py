"""A policy document (plain data, as YAML or JSON gives it) becomes a `Policy`, or every problem in it at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloned_proxy.policy.model import Policy

type DocumentPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    path: str
    """`tools.demo@v1.allow[2].host`"""
    line: int | None
    message: str
    """What is wrong and what to write instead."""


class PolicyError(Exception):
    """A policy that is not accepted. Holds every problem found, in file order."""

    def __init__(self, problems: tuple[Problem, ...], source: str) -> None:
        super().__init__("\n".join(f"{source}:{p.line or 1}: {p.path}: {p.message}" for p in problems))
        self.problems = problems
        self.source = source


def parse_policy(
    document: object,
    *,
    source: str,
    version: str,
    lines: Mapping[DocumentPath, int],
) -> Policy:
    """Validates a document and runs nothing. Raises PolicyError.

    `lines` maps the path of each mapping value and list item to its line in the file (1-based).
    """
    raise NotImplementedError


def failed_tests(policy: Policy, now: float) -> tuple[Problem, ...]:
    """Runs the file's `tests:` against the policy itself; an empty tuple means that all of them hold."""
    raise NotImplementedError
