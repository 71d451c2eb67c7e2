"""`approvals`: what tools ask for; a person looks, and says yes or no."""

from __future__ import annotations

from typing import Annotated

import typer

from cloned_proxy.cli.place.options import JsonOption, PolicyOption, UpdateTestsOption, WorkspaceOption

app = typer.Typer(help="What tools ask for: look, approve, reject.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `approvals list` shows it.")]


@app.command("list")
def list_requests(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Decided ones, too.")] = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the requests that wait for a person."""
    from cloned_proxy.cli.commands.approvals.approval_text import HEADINGS, row, service_in
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import put_json, with_iso_times
    from cloned_proxy.cli.show.tables import show_table

    found = service_in(workspace, policy).list(None if everything else "pending")
    if as_json:
        put_json(with_iso_times([approval.as_data() for approval in found]))
    elif not found:
        say("no request" if everything else "no request waits")
    else:
        show_table(map(row, found), HEADINGS)


@app.command("show")
def show(
    approval: IdArgument,
    *,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print who asks for what, and why. Also what it would open, and what is on record about it."""
    from cloned_proxy.cli.commands.approvals.approval_text import lines, mending, service_in
    from cloned_proxy.cli.show.output import put, put_json, with_iso_times

    service = service_in(workspace, policy)
    with mending():
        found, evidence = service.get(approval), service.evidence(approval)
    if as_json:
        put_json(with_iso_times({**found.as_data(), "evidence": evidence.as_data()}))
        return
    for line in lines(found, evidence):
        put(line)


@app.command("approve")
def approve(
    approval: IdArgument,
    *,
    narrowest: Annotated[
        bool, typer.Option("--narrowest", help="Only what was denied, not all that is asked for.")
    ] = False,
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="That long, such as 30m; default: as asked.")
    ] = None,
    uses: Annotated[
        int | None, typer.Option("--uses", metavar="N", min=1, help="That many requests; default: as asked.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; goes into the file and the log.")] = "",
    expected: Annotated[
        str | None,
        typer.Option("--expected-version", metavar="VERSION", help="Refuse if the policy is not this one any more."),
    ] = None,
    update_tests: UpdateTestsOption = False,
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the rule into the policy; a running proxy follows at once."""
    from cloned_proxy.cli.commands.approvals.approval_text import mending, service_in
    from cloned_proxy.cli.editing.editing import actor
    from cloned_proxy.cli.place.arguments import typed
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import put, put_json, visible, with_iso_times
    from cloned_proxy.policy.terms.units import parse_term

    seconds = None if lasting is None else typed(parse_term, lasting, "--for")
    with mending():
        granted = service_in(workspace, policy).approve(
            approval,
            actor=actor(),
            choice="narrowest" if narrowest else "proposed",
            for_seconds=seconds,
            uses=uses,
            reason=reason,
            expected_version=expected,
            update_tests=update_tests,
        )
    if as_json:
        approved = with_iso_times(granted.approval.as_data())
        put_json({**approved, "rule": str(granted.addition), "version": granted.version})
        return
    put(visible(str(granted.addition)))
    if not granted.changed:
        say("nothing to change: the policy says so already")
    say(f"approved: {approval} ({f'policy version {granted.version}' if granted.version else 'in the whole fleet'})")


@app.command("reject")
def reject(
    approval: IdArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; goes into the log.")] = "",
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say no; the policy stays as it is."""
    from cloned_proxy.cli.commands.approvals.approval_text import mending, service_in
    from cloned_proxy.cli.editing.editing import actor
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import put_json, with_iso_times

    with mending():
        decided = service_in(workspace, policy).reject(approval, actor=actor(), reason=reason)
    if as_json:
        put_json(with_iso_times(decided.as_data()))
    else:
        say(f"rejected: {approval}; the policy is as it was")


@app.command("key")
def key(*, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Make this workspace's key for decisions in a fleet, or print it."""
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import put, put_json
    from cloned_proxy.fleet.approvals.approval_service import approver_key_file
    from cloned_proxy.fleet.link.libraries import need_libraries

    need_libraries()
    from cloned_proxy.fleet.signed.keys import load_or_create_key

    path = approver_key_file(existing_workspace(workspace))
    path.parent.mkdir(mode=0o700, exist_ok=True)
    public = load_or_create_key(path).public
    if as_json:
        put_json({"public": public, "file": str(path)})
        return
    put(public)
    say("name it in `fleet: {approvers: […]}` of every replica; who decides here still has to pair a device")
