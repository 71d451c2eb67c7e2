"""`policy prune`: takes out of the file what has ended by itself."""

from __future__ import annotations

from cloned_proxy.cli.place.options import DryRunOption, JsonOption, PolicyOption, UpdateTestsOption, WorkspaceOption


def prune(
    *,
    update_tests: UpdateTestsOption = False,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take out rules that have expired or are used up.

    `serve` does so by itself a day after a lease ended.
    """
    from cloned_proxy.cli.editing.describe import rule_data, rule_text
    from cloned_proxy.cli.editing.editing import EditOptions, actor, tell
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import put, put_json, visible

    options = EditOptions(workspace, policy, dry_run=dry_run, update_tests=update_tests)
    result = options.service(existing_workspace(workspace)).prune(
        actor=actor(), dry_run=dry_run, update_tests=update_tests
    )
    if as_json:
        gone = [rule_data(rule) for rule in result.gone]
        put_json({"removed": gone, "dry_run": dry_run, "version": result.version, "diff": result.diff})
        return
    if not result.gone:
        say("nothing to prune: no rule has ended")
        return
    for rule in result.gone:
        put(visible(f"{rule.id}  {rule.scope}: {rule_text(rule)}"))
    tell(result, f"prune {len(result.gone)} ended", dry_run=dry_run)
