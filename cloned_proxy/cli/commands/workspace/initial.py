"""The first policy of a workspace, made from three answers."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloned_proxy.cli.editing.agents import Agent, agent_of
from cloned_proxy.cli.show.errors import FAILED, CommandError
from cloned_proxy.program_name import in_this_shell
from cloned_proxy.runner.images.tool_program import PYTHON_IMAGE
from cloned_proxy.store.files.yaml_edit import render
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.preset_edit import Pinned, is_pinned, pinned, presets_written
from cloned_proxy.store.workspaces.presets import DERIVED
from cloned_proxy.store.workspaces.shipped_policy import head_text
from cloned_proxy.store.workspaces.workspace import DIRECTORY_NAME, Workspace


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool of the policy to be."""

    id: str
    presets: tuple[str, ...]
    command: str
    """What starts it; `CMD` where that is not known."""

    @property
    def agent(self) -> Agent | None:
        """The agent that the command starts: it wants an image with its program, a terminal and the project."""
        return agent_of(self.command)


@dataclass(frozen=True, slots=True)
class Answers:
    tools: tuple[Tool, ...]
    presets: tuple[str, ...]
    """For each of the tools, beside its own."""
    sandbox: bool

    def use_of(self, tool: Tool) -> tuple[str, ...]:
        """The presets that the tool uses, each once."""
        return tuple(dict.fromkeys((*tool.presets, *self.presets)))


@dataclass(frozen=True, slots=True)
class Made:
    """What was written, or would be."""

    answers: Answers
    workspace: Workspace
    path: Path
    version: str
    text: str
    derived: tuple[Pinned, ...]
    dry_run: bool
    images: Collection[str] = ()
    """Those that the engine has already."""

    @property
    def next_commands(self) -> list[str]:
        """What to type now, in order."""
        return [
            *(build for build, _ in self._builds),
            shlex.join(["cloned-proxy", "serve", *self._where]),
            *map(self._start, self.answers.tools),
        ]

    @property
    def _builds(self) -> list[tuple[str, bool]]:
        """What makes the images that the tools need, and whether that one is there: else it takes some minutes.

        The worker's comes with the first one. An agent's command also says which image its tool runs in, so it is
        needed where the image is there, too.
        """
        if not self.answers.sandbox:
            return []
        agents = [(tool.id, tool.agent) for tool in self.answers.tools if tool.agent is not None]
        if not agents:
            return [] if PYTHON_IMAGE in self.images else [("cloned-proxy image build", False)]
        return [
            (shlex.join([*agent.build_words(tool), *self._where]), agent.image in self.images) for tool, agent in agents
        ]

    def _start(self, tool: Tool) -> str:
        if not self.answers.sandbox:
            token = shlex.join(["cloned-proxy", "token", *self._where, tool.id])
            return f"export $({token}) && {tool.command}"
        if tool.agent is None:
            return shlex.join(["cloned-proxy", "exec", *self._where, tool.id, "--", tool.command])
        named = [] if tool.id == f"{tool.command}@v1" else [tool.id]
        return shlex.join(["cloned-proxy", "shell", *self._where, *named, "--", tool.command])

    @property
    def _where(self) -> list[str]:
        return [] if self._is_near else ["--workspace", str(self.workspace.root)]

    @property
    def _is_near(self) -> bool:
        """Whether commands find the workspace by themselves when they are typed here."""
        return Workspace.find().root == self.workspace.root

    def messages(self) -> Iterator[str]:
        """For people, after the policy itself."""
        for each in self.derived:
            for host in each.found:
                yield f"preset {each.name}: {host.host}:{host.port}, from {host.where}"
        if self.dry_run:
            yield "nothing written (--dry-run)"
            return
        yield f"written: {self.path} (policy version {self.version})"
        commands = [in_this_shell(command) for command in self.next_commands]
        for _, is_there in self._builds:
            takes = "a moment (the image is there)" if is_there else "some minutes"
            yield f"once, {takes}: {commands.pop(0)}"
        serve, start, *others = commands
        yield f"next: {serve}"
        yield f"then, in another terminal: {start}"
        for other in others:
            yield f"  or: {other}"
        project = self.workspace.root.parent
        if os.geteuid() == 0 and project.stat().st_uid == 0 and any("cloned-proxy shell" in word for word in commands):
            yield (
                f"note: you are root, as which no tool runs, and {project} is root's: `shell` wants it to be a user's "
                f"(`chown -R USER {project}`), and you to go on as that user"
            )

    def as_data(self) -> dict[str, Any]:
        return {
            "workspace": str(self.workspace.root),
            "policy": str(self.path),
            "version": self.version,
            "tools": {tool.id: list(self.answers.use_of(tool)) for tool in self.answers.tools},
            "sandbox": self.answers.sandbox,
            "written": not self.dry_run,
            "next": self.next_commands,
            "text": self.text,
        }


def place_for(flag: Path | None) -> Workspace:
    """The workspace to make: that of `--workspace`, else `.cloned` right here, whatever lies further up."""
    named = flag or os.environ.get("CLONED_WORKSPACE")
    return Workspace(Path(named).expanduser().absolute() if named else Path.cwd() / DIRECTORY_NAME)


def check_free(place: Workspace, policy_file: Path | None) -> None:
    """Raises CommandError where there is a policy already."""
    path = place.policy_path(policy_file)
    if os.path.lexists(path):
        raise CommandError(
            f"{path}: there is a policy already, and it stays as it is; change it with `cloned-proxy allow`, or move "
            "it away first",
            code=FAILED,
        )


def write(answers: Answers, place: Workspace, policy_file: Path | None, *, dry_run: bool) -> Made:
    """Writes the policy, and derived presets before it; all of it or nothing. Raises CommandError, StoreError."""
    from cloned_proxy.cli.editing.editing import actor

    now = time.time()
    service = EditService(place, policy_file)
    wanted = [name for name in answers.presets if name in DERIVED]
    held = [name for name in wanted if place.presets.is_local(name) and not is_pinned(place, name)]
    derived = tuple(pinned(name, now) for name in wanted if name not in held)
    text = policy_text(answers)

    def fresh(before: bytes) -> str:
        if before:  # somebody was faster
            check_free(place, policy_file)
        return text

    who = actor()
    texts = {each.name: each.text for each in derived}
    with presets_written(service, texts, actor=who, why="init", now=now, dry_run=dry_run):
        result = service.rewrite(fresh, summary="init", actor=who, why="", dry_run=dry_run)
    return Made(answers, place, service.path, result.version, text, derived, dry_run)


def policy_text(answers: Answers) -> str:
    """The policy file: the shipped one without its rules, and a section for each tool."""
    lines = ["tools:"]
    for tool in answers.tools:
        lines += [f"  {render(tool.id)}:", f"    use: {render(answers.use_of(tool))}"]
        lines += ["    allow: []", "    deny: []"]
    head, tools, tests = head_text().partition("tools: {}\n")
    if not tools:
        raise ValueError("the shipped policy has no empty `tools: {}` to put tools into")
    return "\n".join((head + lines[0], *lines[1:], tests))
