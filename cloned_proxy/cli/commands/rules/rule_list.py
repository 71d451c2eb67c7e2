"""The effective rules as `list` prints them, and those that nothing has used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloned_proxy.policy.model.model import Policy
    from cloned_proxy.policy.terms.rule import Rule
    from cloned_proxy.store.policyfile.rule_use import RuleUse


def print_rules(
    *,
    tool: str | None = None,
    stale: str | None = None,
    workspace: Path | None = None,
    policy: Path | None = None,
    as_json: bool = False,
) -> None:
    """As `list --help` says. Raises CommandError, PolicyError or StoreError."""
    import sys

    from cloned_proxy.cli.editing.describe import HEADINGS, rule_data, rule_row
    from cloned_proxy.cli.place.context import existing_workspace, policy_in
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import paint, put, put_json, short_path
    from cloned_proxy.cli.show.tables import show_table
    from cloned_proxy.store.policyfile.rule_use import rule_use

    place = existing_workspace(workspace)
    path, found = policy_in(place, policy)
    rules = _effective(found, tool)
    use = rule_use(place, path)
    if stale is not None:
        _propose(rules, found, use, _oldest(stale), as_json=as_json)
        return
    if as_json:
        put_json(
            {
                "policy": str(path),
                "version": found.version,
                "mode": found.mode.value,
                "anonymous": found.anonymous.value,
                "rules": [rule_data(rule, use) for rule in rules],
            }
        )
        return
    if not rules:
        say(f"no rules in {short_path(str(path))}{f' for {tool}' if tool else ''}; `cloned-proxy allow HOST` makes one")
        return
    if sys.stdout.isatty():
        mode = paint(f"mode {found.mode}", "yellow" if found.mode == "report" else "dim")
        put(f"{paint(f'{short_path(str(path))}, version {found.version}, ', 'dim')}{mode}")
    show_table([rule_row(rule, use, path) for rule in rules], HEADINGS, group_by=HEADINGS.index("SCOPE"))


def _effective(policy: Policy, tool: str | None) -> tuple[Rule, ...]:
    if tool is None:
        return policy.rules
    scope = policy.scope_of(tool)
    inherited = policy.global_scope.allowing if scope.inherit_global else ()
    return (*scope.deny.rules, *policy.global_scope.deny.rules, *scope.allowing, *inherited)


def _oldest(stale: str) -> float:
    """Unix seconds; rules that decided since then are in use."""
    import time

    from cloned_proxy.cli.place.arguments import typed
    from cloned_proxy.policy.terms.units import parse_term

    return time.time() - typed(parse_term, stale, "--stale")


def _propose(rules: tuple[Rule, ...], policy: Policy, use: RuleUse, oldest: float, *, as_json: bool) -> None:
    """The removals, as commands. A deny that nothing runs into does what it is for, so it is never stale."""
    from cloned_proxy.cli.editing.describe import removal, rule_data
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import iso_time, put, put_json
    from cloned_proxy.program_name import in_this_shell

    allows = [rule for rule in rules if not rule.denies]
    idle = {rule.id: use.idle_since(rule) for rule in allows}
    found = [rule for rule in allows if (since := idle[rule.id]) is not None and since <= oldest]
    kept = [rule for rule in policy.rules if rule not in found]
    commands = [removal(rule, kept) for rule in found]
    if as_json:
        put_json([{**rule_data(rule, use), "remove": command} for rule, command in zip(found, commands, strict=True)])
        return
    for rule, command in zip(found, commands, strict=True):
        what = "last hit" if use.last_hit(rule) == idle[rule.id] else "not hit since it is there,"
        put(f"{in_this_shell(command)}  # {what} {iso_time(idle[rule.id])}; hits: {use.hit_count(rule)}")
    if unknown := sum(since is None for since in idle.values()):
        say(f"not known since when they are there, so not judged: {unknown} rules; `serve` begins to count")
    say("nothing removed; run the lines that you agree with" if found else "no stale rules")
