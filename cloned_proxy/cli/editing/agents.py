"""The coding agents that are known by name: what starts each, which preset it needs, how an image gets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cloned_proxy.runner.images.tool_packages import ToolImage


@dataclass(frozen=True, slots=True)
class Agent:
    """A program that has a preset of its own name."""

    tool: str
    command: str
    package: str
    """In the npm registry, in the version that was tried: NAME@VERSION."""
    scripts: bool = False
    """Whether the package is a whole program only when its install script has run."""

    @property
    def image(self) -> str:
        """What `build_words` makes is called so."""
        return ToolImage(npm=(self.package,), scripts=self.scripts).name

    def build_words(self, tool: str) -> list[str]:
        """The command that makes an image with it for the tool."""
        scripts = ["--scripts"] if self.scripts else []
        return ["cloned-proxy", "image", "build", "--npm", self.package, *scripts, "--tool", tool]


AGENTS: Final = {
    "claude-code": Agent("claude@v1", "claude", "@anthropic-ai/claude-code@2.1.197", scripts=True),
    "codex": Agent("codex@v1", "codex", "@openai/codex@0.171.0"),
    "gemini-cli": Agent("gemini@v1", "gemini", "@google/gemini-cli@0.61.0"),
}
"""The agents that have a preset, by its name."""


def agent_of(command: str) -> Agent | None:
    """The agent that a word starts; None for any other program."""
    return next((agent for agent in AGENTS.values() if agent.command == command), None)


def preset_of(command: str) -> str | None:
    """The preset of the agent that a word starts; None for any other program."""
    return next((name for name, agent in AGENTS.items() if agent.command == command), None)
