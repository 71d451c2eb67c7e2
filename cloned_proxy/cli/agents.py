"""The coding agents that are known by name: what starts each, which preset it needs, how an image gets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Agent:
    """A program that has a preset of its own name."""

    tool: str
    command: str
    bake: str
    """What `image build` takes to put it into an image; VERSION is the user's to choose."""


AGENTS: Final = {
    "claude-code": Agent("claude@v1", "claude", "--npm @anthropic-ai/claude-code@VERSION --scripts"),
    "codex": Agent("codex@v1", "codex", "--npm @openai/codex@VERSION"),
    "gemini-cli": Agent("gemini@v1", "gemini", "--npm @google/gemini-cli@VERSION"),
}
"""By the name of the preset."""


def preset_of(command: str) -> str | None:
    """The preset of the agent that a word starts; None for any other program."""
    return next((name for name, agent in AGENTS.items() if agent.command == command), None)
