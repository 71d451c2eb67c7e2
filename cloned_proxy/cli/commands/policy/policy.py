"""`policy`: check a file, compare it, import a pack; and its earlier versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cloned_proxy.cli.commands.policy import history, prune, suggest
from cloned_proxy.cli.place.options import DryRunOption, JsonOption, PolicyOption, UpdateTestsOption, WorkspaceOption
from cloned_proxy.cli.show.errors import BAD_INPUT, say

app = typer.Typer(help="Check, compare, import, suggest and restore policies.", no_args_is_help=True)


@app.command("check")
def check(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Default: the policy in use.")] = None,
    *,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Validate a policy file and run its tests. Exit 2 with every problem in it."""
    import time

    from cloned_proxy.cli.editing.presets import warnings_about
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.output import put, put_json
    from cloned_proxy.policy.hints.breadth import findings
    from cloned_proxy.policy.reading.parse import PolicyError
    from cloned_proxy.store.files.yaml_reader import DocumentError
    from cloned_proxy.store.policyfile.policy_file import load_policy
    from cloned_proxy.store.workspaces.workspace import Workspace

    # A file that is named needs no workspace.
    place = Workspace.find(workspace) if file or policy else existing_workspace(workspace)
    path = file or place.policy_path(policy)
    try:
        found = load_policy(path, time.time(), place.presets)
    except (PolicyError, DocumentError) as error:
        for line in (*str(error).splitlines(), *getattr(error, "shown", "").splitlines()):
            say(line)
        if as_json:
            problems = [{"path": p.path, "line": p.line, "message": p.message} for p in error.problems]
            put_json({"ok": False, "source": str(path), "problems": problems})
        raise typer.Exit(BAD_INPUT) from None
    told: dict[str, Any] = {
        "ok": True,
        "source": str(path),
        "version": found.version,
        "mode": found.mode.value,
        "rules": len(found.rules),
        "tests": len(found.tests),
        "warnings": [*map(str, findings(found)), *warnings_about(found, place)],
    }
    for warning in told["warnings"]:
        say(f"cloned-proxy: {warning}")
    if as_json:
        put_json(told)
    else:
        counts = f"rules: {len(found.rules)}, tests: {len(found.tests)}"
        put(f"ok  {path}: version {found.version}, mode {found.mode}, {counts}")


@app.command("diff")
def diff(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy file to compare with the one in use.")],
    *,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which rules and settings would change with FILE."""
    import time

    from cloned_proxy.cli.commands.policy.policy_diff import compare
    from cloned_proxy.cli.place.context import policy_in
    from cloned_proxy.cli.show.output import put, put_json
    from cloned_proxy.store.policyfile.policy_file import load_policy
    from cloned_proxy.store.workspaces.workspace import Workspace

    place = Workspace.find(workspace)
    _, now_in_use = policy_in(place, policy)
    found = compare(now_in_use, load_policy(file, time.time(), place.presets))
    if as_json:
        put_json(found.as_data())
        return
    lines = list(found.lines())
    for line in lines:
        put(line)
    if not lines:
        say("no difference in what the policy says")


@app.command("import")
def import_hosts(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Its form is found out.")],
    *,
    tool: Annotated[
        str | None, typer.Option("--tool", metavar="TOOL", help="For this tool, where the list names none.")
    ] = None,
    update_tests: UpdateTestsOption = False,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add the hosts of another program's allowlist.

    Read are Cloned packs, Squid dstdomain lists, smokescreen ACLs, Claude Code's settings and HAR files.

    Every entry is told: added, present already, or refused and why; exit 1 when one was refused.
    """
    from cloned_proxy.cli.commands.policy.imports import import_list
    from cloned_proxy.cli.editing.editing import EditOptions, check_tool, tell
    from cloned_proxy.cli.show.errors import FAILED
    from cloned_proxy.cli.show.output import put, put_json, visible

    check_tool(tool)
    done = import_list(file, tool, EditOptions(workspace, policy, dry_run=dry_run, update_tests=update_tests))
    if as_json:
        put_json(done.as_data(dry_run=dry_run))
    else:
        say(f"{file}: {done.found.form}")
        for line in done.lines():
            put(visible(line))
        tell(done.result, done.summary, dry_run=dry_run)
    if done.found.refused:
        raise typer.Exit(FAILED)


app.command("prune")(prune.prune)
app.command("suggest")(suggest.suggest)
app.command("history")(history.history)
app.command("show")(history.show)
app.command("restore")(history.restore)
