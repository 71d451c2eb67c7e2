"""What `shell` fills in for whoever typed nothing but the name of a program, and what it says before it starts."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from cloned_proxy.cli.editing.agents import AGENTS, preset_of
from cloned_proxy.cli.show.errors import CommandError, say

if TYPE_CHECKING:
    from cloned_proxy.cli.commands.sandbox.exec_options import ExecOptions
    from cloned_proxy.policy.model.model import Policy

_SHELL_TOOL: Final = "shell@v1"
_SHELLS: Final = frozenset({"ash", "bash", "dash", "fish", "ksh", "sh", "zsh"})
_A_SHELL: Final = ("sh", "-c", "command -v bash >/dev/null && exec bash; exec sh")
_SHOWN: Final = 3


def command_of(typed: tuple[str, ...]) -> tuple[str, ...]:
    """What was typed, else bash, else, in an image without it, sh."""
    return typed or _A_SHELL


def tool_of(tool: str | None, typed: tuple[str, ...]) -> str:
    """The tool id as typed, else `NAME@v1` of the command's name, else, for a shell, `shell@v1`.

    Raises CommandError for `shell claude`, which asks for a shell under the rules of a tool named claude.
    """
    from cloned_proxy.policy.callers.tool_id import is_tool_id

    if tool is not None:
        if not typed and preset_of(tool) is not None:
            raise CommandError(f"{tool} stands where the tool id belongs; write `cloned-proxy shell -- {tool}`")
        return tool
    name = PurePosixPath(typed[0]).name if typed else ""
    if not name or name in _SHELLS:
        return _SHELL_TOOL
    if not is_tool_id(f"{name}@v1"):
        raise CommandError(f"{name!r} gives no tool id; name one: `cloned-proxy shell my.tool@v1 -- …`")
    return f"{name}@v1"


def tell_rules(options: ExecOptions) -> None:
    """Says whose rules apply, and what to do where there are none. Raises PolicyError or StoreError.

    In two lines: what starts now may want the whole screen.
    """
    from cloned_proxy.cli.place.context import policy_in
    from cloned_proxy.store.workspaces.workspace import Workspace

    _, policy = policy_in(Workspace.find(options.workspace), options.policy)
    for line in rule_lines(policy, options.tool, options.command[0]):
        say(f"cloned-proxy: {line}")


def rule_lines(policy: Policy, tool: str, program: str) -> list[str]:
    """One line, or two where the tool has no rule of its own."""
    from cloned_proxy.policy.terms.vocabulary import Mode

    scope = policy.scope_of(tool)
    inherited = policy.global_scope.allow.rules if scope.inherit_global else ()
    hosts = list(dict.fromkeys(str(rule.pattern) for rule in (*scope.allowing, *inherited)))
    more = f" and {len(hosts) - _SHOWN} more" if len(hosts) > _SHOWN else ""
    if Mode.REPORT in (policy.mode, scope.mode):
        return [f"the rules of {tool} apply, in report mode: everything passes, and is recorded"]
    lines = [f"the rules of {tool} apply; it may reach {', '.join(hosts[:_SHOWN]) or 'nothing'}{more}"]
    if not scope.allowing:
        preset = preset_of(PurePosixPath(program).name)
        what = f"--preset {preset}" if preset in AGENTS else "HOST"
        lines.append(f"it has no rule of its own; in another terminal: `cloned-proxy allow {what} --tool {tool}`")
    return lines
