"""The three questions of `init`, each with a default that stands in brackets."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cloned_proxy.cli.commands.workspace.initial import Answers, Tool
from cloned_proxy.cli.editing.agents import AGENTS
from cloned_proxy.cli.show.errors import CommandError
from cloned_proxy.policy.callers.tool_id import is_tool_id
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.presets import DERIVED
from cloned_proxy.store.workspaces.workspace import Workspace

_NONE: Final = "none"
_OWN_TOOL: Final = "my.tool@v1"


@dataclass(frozen=True, slots=True)
class GivenAnswers:
    """What options have answered already; None where the person is to be asked."""

    run: Sequence[str] | None
    presets: Sequence[str] | None
    sandbox: bool | None


def ask(asked: GivenAnswers, place: Workspace, *, at_terminal: bool) -> Answers:
    """The answers; the defaults for what no option says where nobody is to be asked. Raises CommandError."""
    run, presets, sandbox = asked.run, asked.presets, asked.sandbox
    tools = _tools(run) if run is not None else None
    more = _presets(place, presets) if presets is not None else None
    if tools is None:
        found = [name for name, agent in AGENTS.items() if shutil.which(agent.command)] or [_OWN_TOOL]
        question = f"What do you run here? {', '.join(AGENTS)}, or a name for a tool of your own"
        tools = _answer(question, found, _tools) if at_terminal else _tools(found)
    if more is None:
        names = [name for name in sorted({*place.presets.names(), *DERIVED}) if name not in AGENTS]
        question = f"What else may it reach? {', '.join(names)}"
        more = _answer(question, [_NONE], lambda words: _presets(place, words)) if at_terminal else ()
    if sandbox is None:
        import typer

        sandbox = typer.confirm("Run it in a sealed container?", default=True, err=True) if at_terminal else True
    return Answers(tools, more, sandbox)


def _answer[T](question: str, default: Sequence[str], read: Callable[[Sequence[str]], T]) -> T:
    """Asks until the answer can be read. On stderr: stdout is for the policy."""
    import typer

    from cloned_proxy.cli.show.errors import say

    while True:
        text = str(typer.prompt(question, default=", ".join(default), err=True))
        try:
            return read([word for word in re.split(r"[,\s]+", text) if word])
        except CommandError as error:
            say(str(error))


def _tools(words: Sequence[str]) -> tuple[Tool, ...]:
    tools: dict[str, Tool] = {}
    for word in words:
        if word in AGENTS:
            agent = AGENTS[word]
            tools[agent.tool] = Tool(agent.tool, (word,), agent.command)
        elif is_tool_id(word):
            tools.setdefault(word, Tool(word, (), "CMD"))
        else:
            raise CommandError(
                f"{word!r} is not known here; write {', '.join(AGENTS)}, or a tool id such as {_OWN_TOOL}"
            )
    if not tools:
        raise CommandError(f"name what you run: {', '.join(AGENTS)}, or a tool id such as {_OWN_TOOL}")
    return tuple(tools.values())


def _presets(place: Workspace, words: Sequence[str]) -> tuple[str, ...]:
    shelf = place.presets
    names = [word for word in dict.fromkeys(words) if word != _NONE]
    for name in names:
        if name not in DERIVED or shelf.is_local(name):
            try:
                shelf.read(name)
            except StoreError as error:
                raise CommandError(str(error)) from error
    return tuple(names)
