"""The coding agents that are known by name: what starts each, which preset it needs, which package brings it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Agent:
    """A program that has a preset of its own name."""

    tool: str
    command: str
    package: str
    """In the npm registry."""


AGENTS: Final = {
    "claude-code": Agent("claude@v1", "claude", "@anthropic-ai/claude-code"),
    "codex": Agent("codex@v1", "codex", "@openai/codex"),
    "gemini-cli": Agent("gemini@v1", "gemini", "@google/gemini-cli"),
}
"""By the name of the preset."""


def preset_of(command: str) -> str | None:
    """The preset of the agent that a word starts; None for any other program."""
    return next((name for name, agent in AGENTS.items() if agent.command == command), None)
