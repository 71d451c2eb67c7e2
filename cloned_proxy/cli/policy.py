"""`policy`: check a file, compare it, import a pack; and its earlier versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cloned_proxy.cli import history, suggest
from cloned_proxy.cli.errors import BAD_INPUT, say
from cloned_proxy.cli.options import DryRunOption, JsonOption, PolicyOption, UpdateTestsOption, WorkspaceOption

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

    from cloned_proxy.cli.output import put, put_json
    from cloned_proxy.cli.presets import warnings_about
    from cloned_proxy.policy.parse import PolicyError
    from cloned_proxy.store.policy_file import load_policy
    from cloned_proxy.store.workspace import Workspace

    place = Workspace.find(workspace)
    path = file or place.policy_path(policy)
    try:
        found = load_policy(path, time.time(), place.presets)
    except PolicyError as error:
        for line in str(error).splitlines():
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
        "warnings": warnings_about(found, place),
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

    from cloned_proxy.cli.context import policy_in
    from cloned_proxy.cli.output import put, put_json
    from cloned_proxy.cli.policy_diff import compare
    from cloned_proxy.store.policy_file import load_policy
    from cloned_proxy.store.workspace import Workspace

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
def import_pack(
    pack: Annotated[Path, typer.Argument(metavar="PACK.yaml", help="A Cloned policy pack.")],
    *,
    update_tests: UpdateTestsOption = False,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
) -> None:
    """Add what a pack allows. Read are egress_domains, egress_by_tool and egress_by_connector."""
    from cloned_proxy.cli.editing import EditOptions, apply_additions
    from cloned_proxy.cli.errors import CommandError
    from cloned_proxy.policy.model import GLOBAL_SCOPE
    from cloned_proxy.policy.pack import read_pack
    from cloned_proxy.store.files import read_regular_file
    from cloned_proxy.store.policy_entry import Addition, Entry
    from cloned_proxy.store.yaml_reader import MAX_BYTES, read_document

    document = read_document(read_regular_file(pack, limit=MAX_BYTES, what="policy pack"), str(pack))
    found = read_pack(document.data)
    if found.problems:
        raise CommandError("; ".join(f"{pack}: {p.path}: {p.message}" for p in found.problems))
    entries: dict[str, list[Entry]] = {}
    for addition in found.additions:
        entries.setdefault(addition.scope, []).append(Entry(str(addition.pattern)))
    additions = [Addition(tuple(e), None if scope == GLOBAL_SCOPE else scope) for scope, e in entries.items()]
    count = sum(len(each) for each in entries.values())
    options = EditOptions(workspace, policy, dry_run=dry_run, update_tests=update_tests)
    apply_additions(additions, f"import {pack.name}: {count} hosts", options)


app.command("suggest")(suggest.suggest)
app.command("history")(history.history)
app.command("show")(history.show)
app.command("restore")(history.restore)
