"""`mcp wrap` and `mcp unwrap`: what is shown, what is written, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

from cloned_proxy.cli.commands.mcp.bake import bake_plan
from cloned_proxy.cli.editing.editing import actor
from cloned_proxy.cli.place.context import existing_workspace
from cloned_proxy.cli.place.place import policy_to_edit, workspace_to_write
from cloned_proxy.cli.show.errors import FAILED, say
from cloned_proxy.cli.show.output import put, short_path
from cloned_proxy.program_name import absolute_words
from cloned_proxy.runner.mcp.client_file import ClientFile
from cloned_proxy.runner.mcp.registry import ServerRegistry
from cloned_proxy.runner.mcp.undo import UndoRecord, WrappedServer, unwrap
from cloned_proxy.runner.mcp.wrapping import Plan, ServerStarter, Wrapped, apply_plan, make_plan
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.edit_service import EditService
from cloned_proxy.store.policyfile.tool_sections import add_tool_sections
from cloned_proxy.store.workspaces.workspace import Workspace


def wrap_file(path: Path, *, dry_run: bool, report: bool, workspace: Path | None, policy: Path | None) -> int:
    """Returns the exit code. Raises CommandError, PolicyError or StoreError; the client's file is written last."""
    place = Workspace.find(workspace) if dry_run else workspace_to_write(workspace)
    file, registry, undo = ClientFile.load(path.expanduser()), ServerRegistry(place), UndoRecord(place)
    starter = ServerStarter(absolute_words(), place.root)
    plan = make_plan(file, registry, starter)
    whole = bake_plan(plan, dry_run=dry_run)
    _tell(plan)
    apply_plan(plan, file, registry, starter)
    if plan.wrapped:
        registry.use_engine(os.environ.get("DOCKER_HOST") or None)
    service = EditService(place, policy_to_edit(place, policy))
    sections = add_tool_sections(
        service, [each.server.tool for each in plan.wrapped], report=report, actor=actor(), why="", dry_run=True
    )
    taken_over = registry.diff()
    for diff in (taken_over, sections.diff, file.diff()):
        if diff:
            put(diff.rstrip("\n"))
    if dry_run:
        say("nothing written (--dry-run)")
        return 0
    _write(plan, file, registry, undo)
    if sections.changed:
        add_tool_sections(
            service, [each.server.tool for each in plan.wrapped], report=report, actor=actor(), why=f"mcp wrap {path}"
        )
    if plan.wrapped:
        undo.save()
        file.save()
    if not plan.wrapped and taken_over:
        say("done: what came since is taken over at the server's next start; restart the client")
    else:
        _tell_end(plan, path)
    return 0 if whole else FAILED


def _write(plan: Plan, file: ClientFile, registry: ServerRegistry, undo: UndoRecord) -> None:
    """The registry, and the record as it will be."""
    by_place = {each.entry.place: each for each in plan.wrapped}
    undo.remember(
        file,
        [
            WrappedServer(each.name, tuple(change for change in file.changes if change.place[: len(place)] == place))
            for place, each in by_place.items()
        ],
    )
    registry.save()


def unwrap_file(path: Path, *, dry_run: bool, workspace: Path | None) -> int:
    """Returns the exit code: 1 when an entry was changed since and stays. Raises StoreError."""
    place = existing_workspace(workspace)
    file, registry, undo = ClientFile.load(path.expanduser()), ServerRegistry(place), UndoRecord(place)
    record = undo.files.get(str(file.path))
    if record is None:
        others = "".join(f"\n  {name}" for name in undo.files)
        raise StoreError(f"{path}: was not wrapped in {place.root}" + (f"; these were:{others}" if others else ""))
    result = unwrap(file, record)
    if diff := file.diff():
        put(diff.rstrip("\n"))
    for each in result.changed:
        say(f"{each.server}: its entry is not as `mcp wrap` wrote it; left as it is")
    if dry_run:
        say("nothing written (--dry-run)")
        return FAILED if result.changed else 0
    gone = result.exact and record.created
    if gone:
        file.check_unchanged()
        file.path.unlink()
    elif file.text.encode() != file.original:
        file.save()
    for each in record.servers:
        if not undo.used(each.server, besides=file.path):
            registry.drop(each.server)
    del undo.files[str(file.path)]
    undo.save()
    registry.save()
    done = "byte for byte as it was" if result.exact else "without our entries; what else was changed since is kept"
    done = "gone: it was not there before" if gone else done
    say(f"done: {short_path(str(file.path))} is {done}; the policy keeps the servers' rules")
    return FAILED if result.changed else 0


def _tell(plan: Plan) -> None:
    for each in plan.wrapped:
        _tell_of(each)
    for entry, name in plan.already:
        say(f"{entry.name}: is wrapped already, as {name}")
    for entry, why in plan.left:
        say(f"{entry.name}: left alone: {why}")


def _tell_of(each: Wrapped) -> None:
    taken = f"; takes over {', '.join(each.server.env)}" if each.server.env else ""
    say(f"{each.entry.name}: runs as {each.name}, by the rules of {each.server.tool}{taken}")
    for note in each.notes:
        say(f"  {note}")


def _tell_end(plan: Plan, path: Path) -> None:
    if not plan.wrapped:
        say("nothing to change")
        return
    say(f"done: {len(plan.wrapped)} wrapped; nothing is allowed to them yet. Restart the client, then:")
    name, tool = plan.wrapped[0].name, plan.wrapped[0].server.tool
    say(f"  cloned-proxy mcp check {name}  # does it start, what does it offer, what was refused")
    say(f"  cloned-proxy allow HOST --tool {tool}  # what it may reach; `cloned-proxy log --denied` names it")
    say(f"  cloned-proxy mcp unwrap {path}  # takes it all back")
