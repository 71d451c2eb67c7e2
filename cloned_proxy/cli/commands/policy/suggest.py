"""`policy suggest`: what was recorded, as rules to review."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloned_proxy.cli.place.options import JsonOption, PolicyOption, ToolOption, WorkspaceOption

if TYPE_CHECKING:
    from cloned_proxy.store.approvals.suggest import CallCounts, Suggestion, Withheld
    from cloned_proxy.store.policyfile.edit_service import EditService
    from cloned_proxy.store.policyfile.policy_edit import EditResult


def suggest(
    *,
    tool: ToolOption = None,
    since: Annotated[str, typer.Option("--since", metavar="DURATION", help="How far to look back.")] = "1d",
    workspace: WorkspaceOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the narrowest rules for what was denied or reported. It is a diff to review; nothing is written."""
    import time

    from cloned_proxy.cli.place.arguments import typed
    from cloned_proxy.cli.place.context import existing_workspace, policy_in
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import iso_time, put, put_json
    from cloned_proxy.policy.terms.units import parse_term
    from cloned_proxy.store.approvals.suggest import suggest as suggest_rules
    from cloned_proxy.store.audit.tally import EVERY_TOOL, Tally
    from cloned_proxy.store.policyfile.edit_service import EditService

    now = time.time()
    start = now - typed(parse_term, since, "--since")
    place = existing_workspace(workspace)
    _, found = policy_in(place, policy)
    with Tally(place.state_db) as tally:
        calls = tally.calls(since=start, tool=EVERY_TOOL if tool is None else tool)
    suggestion, edit = _tried(suggest_rules(calls, found, now), EditService(place, policy))
    if as_json:
        put_json({"since": iso_time(start), **_data(suggestion), "diff": edit.diff})
        return
    if edit.diff:
        put(edit.diff.rstrip("\n"))
    for line in _lines(suggestion):
        say(line)
    if edit.diff:
        say("nothing written; review the diff, then pipe it into `patch FILE`, or use `cloned-proxy allow`")
    else:
        say(f"nothing to suggest since {iso_time(start)}")


def _tried(suggestion: Suggestion, service: EditService) -> tuple[Suggestion, EditResult]:
    """The edit that would make the rules, without those that a test of the policy file forbids: they are refused."""
    from dataclasses import replace

    from cloned_proxy.cli.editing.editing import actor
    from cloned_proxy.policy.reading.parse import PolicyError
    from cloned_proxy.store.approvals.suggest import Suggested, Withheld

    def edit(*entries: Suggested) -> EditResult:
        return service.add(replace(suggestion, entries=entries).additions, actor=actor(), why="", dry_run=True)

    try:
        return suggestion, edit(*suggestion.entries)
    except PolicyError:
        kept: list[Suggested] = []
        refused = list(suggestion.refused)
    for each in suggestion.entries:
        try:
            edit(each)
        except PolicyError as error:
            why = f"the policy says that it must not: {error.problems[0].message}"
            refused.append(Withheld(each.tool, each.entry.host, why, each.seen))
        else:
            kept.append(each)
    return replace(suggestion, entries=tuple(kept), refused=tuple(refused)), edit(*kept)


def _data(suggestion: Suggestion) -> dict[str, Any]:
    return {
        "suggested": [
            {"tool": each.tool, "entry": each.entry.as_value(), **_seen_data(each.seen)} for each in suggestion.entries
        ],
        "refused": [_withheld_data(each) for each in suggestion.refused],
        "suspicious": [_withheld_data(each) for each in suggestion.suspicious],
        "wildcards": [
            {"tool": each.tool, "pattern": each.pattern, "names": list(each.names)} for each in suggestion.wildcards
        ],
    }


def _seen_data(seen: CallCounts) -> dict[str, Any]:
    from cloned_proxy.cli.show.output import iso_time

    return {
        "passed": seen.passed,
        "denied": seen.denied,
        "first": iso_time(seen.first),
        "last": iso_time(seen.last),
    }


def _withheld_data(withheld: Withheld) -> dict[str, Any]:
    return {"tool": withheld.tool, "what": withheld.what, "why": withheld.why, **_seen_data(withheld.seen)}


def _lines(suggestion: Suggestion) -> list[str]:
    lines = [f"suggested   {_who(each.tool)}  {each.entry}  ({_seen_text(each.seen)})" for each in suggestion.entries]
    for heading, listed in (("refused     ", suggestion.refused), ("suspicious  ", suggestion.suspicious)):
        lines += [f"{heading}{_who(each.tool)}  {each.what}: {each.why} ({_seen_text(each.seen)})" for each in listed]
    for wildcard in suggestion.wildcards:
        names = f"{len(wildcard.names)} names, {', '.join(wildcard.names[:3])}, …"
        lines.append(
            f"wildcard?   {_who(wildcard.tool)}  {wildcard.pattern} would cover {names}, and every other one: "
            "write it by hand if all of them are the same owner's"
        )
    return lines


def _who(tool: str | None) -> str:
    return tool or "global (callers without a credential)"


def _seen_text(seen: CallCounts) -> str:
    parts = [f"{seen.denied} denied" if seen.denied else "", f"{seen.passed} reported" if seen.passed else ""]
    return ", ".join(filter(None, parts))
