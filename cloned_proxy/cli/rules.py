"""`list`: the effective rules, and how they have been used."""

from __future__ import annotations

from cloned_proxy.cli.options import JsonOption, PolicyOption, ToolOption, WorkspaceOption


def list_rules(
    *,
    tool: ToolOption = None,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the effective rules, and how they have been used."""
    from cloned_proxy.cli.context import existing_workspace, policy_in, rule_use
    from cloned_proxy.cli.describe import HEADINGS, rule_data, rule_row
    from cloned_proxy.cli.output import put, put_json, table

    place = existing_workspace(workspace)
    path, found = policy_in(place, policy)
    scope = found.scope_of(tool)
    if tool is None:
        rules = found.rules
    else:
        inherited = found.global_scope.allow.rules if scope.inherit_global else ()
        rules = (*scope.deny.rules, *found.global_scope.deny.rules, *scope.allow.rules, *inherited)
    use = rule_use(place)
    if as_json:
        put_json(
            {
                "policy": str(path),
                "version": found.version,
                "mode": found.mode.value,
                "anonymous": found.anonymous.value,
                "rules": [rule_data(rule, used=use.used(rule), last_hit=use.last_hit(rule)) for rule in rules],
            }
        )
        return
    for row in table([rule_row(rule, used=use.used(rule), last_hit=use.last_hit(rule)) for rule in rules], HEADINGS):
        put(row)
