"""What `setup` does: the files of a program, what would change in them, and the record that takes it back."""

from __future__ import annotations

import difflib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloned_proxy.cli.commands.clients.token import authority_of
from cloned_proxy.cli.place.arguments import typed
from cloned_proxy.cli.place.context import existing_workspace, policy_in
from cloned_proxy.cli.show.errors import FAILED, CommandError, say
from cloned_proxy.cli.show.output import put, put_json, short_path
from cloned_proxy.policy.callers.identity import Claims, mint_token, proxy_url
from cloned_proxy.policy.callers.tool_id import tool_id
from cloned_proxy.policy.terms.units import parse_term
from cloned_proxy.policy.terms.vocabulary import Anonymous
from cloned_proxy.runner.mcp.undo import UndoRecord, WrappedFile, WrappedServer, unwrap
from cloned_proxy.runner.setup.programs import PROGRAMS, Program, SetupPlan, SetupSite
from cloned_proxy.runner.setup.settings_file import SettingsFile
from cloned_proxy.store.workspaces.keys import load_or_create_key
from cloned_proxy.store.workspaces.workspace import Workspace

_RECORD: Final = "setup-undo.json"
_NOT_YET: Final = "CREDENTIAL"
"""Stands for a credential that is only made when it is written."""
_FOR_ITS_OWNER: Final = 0o600


@dataclass(frozen=True, slots=True)
class SetupOptions:
    program: str
    write: bool
    undo: bool
    scope: str | None
    tool: str | None
    ttl: str
    workspace: Path | None
    as_json: bool


def set_up(options: SetupOptions) -> int:
    """Returns the exit code. Raises CommandError, PolicyError or StoreError; nothing is written then."""
    program = PROGRAMS.get(options.program)
    if program is None:
        close = difflib.get_close_matches(options.program, PROGRAMS, n=1)
        meant = f"did you mean {close[0]}?" if close else f"known are {', '.join(PROGRAMS)}"
        raise CommandError(f"setup knows no program {options.program!r}; {meant}")
    if options.write and options.undo:
        raise CommandError("--write and --undo are opposites; take one")
    place = existing_workspace(options.workspace)
    return _undo(options, place) if options.undo else _show_or_write(options, program, place)


def _show_or_write(options: SetupOptions, program: Program, place: Workspace) -> int:
    plan = program.plan(_site(options, program, place))
    files = [SettingsFile.open(target.path) for target in plan.targets]
    for file, target in zip(files, plan.targets, strict=True):
        file.apply(target.settings)
    changed = [file for file in files if file.changes]
    if options.write:
        _write(options, place, changed)
    if options.as_json:
        told = [{"path": str(file.path), "created": file.created, "diff": file.diff()} for file in changed]
        put_json({"program": options.program, "written": options.write, "files": told, "notes": plan.notes})
        return 0
    if not options.write:
        for file in changed:
            put(file.diff().rstrip("\n"))
    _tell(options, plan, changed)
    return 0


def _site(options: SetupOptions, program: Program, place: Workspace) -> SetupSite:
    """Raises CommandError for words that do not fit the program, or a proxy that would refuse it."""
    scope = options.scope or program.scopes[0]
    if scope not in program.scopes:
        raise CommandError(f"--scope {scope}: {options.program} has {', '.join(program.scopes)}")
    authority = authority_of(place)
    if options.tool is None:
        proxy = f"http://{authority}"
        _, policy = policy_in(place, None)
        if policy.anonymous is Anonymous.DENY:
            fix = "write `anonymous: challenge` into it, and the global rules decide"
            fix = f"{fix}; or `--tool TOOL` for a credential" if program.takes_credentials else fix
            say(f"cloned-proxy: the policy refuses callers without a credential: {fix}")
    else:
        proxy = proxy_url(options.tool, _credential(options, program, place), authority)
    return SetupSite(scope, Path.home(), place.root.parent, dict(os.environ), proxy)


def _credential(options: SetupOptions, program: Program, place: Workspace) -> str:
    tool = options.tool or ""
    if not program.takes_credentials:
        raise CommandError(f"--tool: the settings of {options.program} have no place for a credential; leave it out")
    typed(tool_id, tool)
    expires = time.time() + typed(parse_term, options.ttl, "--ttl")
    if not options.write:
        return _NOT_YET
    claims = Claims(tool, f"setup-{secrets.token_hex(4)}", expires)
    return mint_token(load_or_create_key(place.identity_key), claims)


def _write(options: SetupOptions, place: Workspace, changed: list[SettingsFile]) -> None:
    """The record first: what it says of a file that was not written any more is found out by `--undo`."""
    if not changed:
        return
    undo, label = UndoRecord(place, _RECORD), _labels(options)[0]
    for file in changed:
        undo.remember(file, [WrappedServer(label, tuple(file.changes))], created=file.created)
    undo.save()
    for file in changed:
        if options.tool is not None and not file.created:
            file.path.chmod(_FOR_ITS_OWNER)  # before there is a credential in it; a new file is its owner's anyway
        file.save()


def _labels(options: SetupOptions) -> list[str]:
    """What the record calls the settings of the scope that was named, or of each scope: the default comes first."""
    scopes = (options.scope,) if options.scope else PROGRAMS[options.program].scopes
    return [f"{options.program}:{scope}" for scope in scopes]


def _tell(options: SetupOptions, plan: SetupPlan, changed: list[SettingsFile]) -> None:
    names = ", ".join(short_path(str(file.path)) for file in changed)
    words = f"cloned-proxy setup {options.program}"
    if not changed:
        say(f"nothing to change: {options.program} is set so already")
    elif options.write:
        say(f"done: {names}; `{words} --undo` takes it back")
        if options.tool is not None:
            say(f"  a credential of {options.tool} stands in it, good for {options.ttl}")
    else:
        scope = f" --scope {options.scope}" if options.scope else ""
        tool = f" --tool {options.tool}" if options.tool else ""
        say(f"nothing written; `{words} --write{scope}{tool}` makes this change")
    for note in plan.notes:
        say(f"  {note}")


def _undo(options: SetupOptions, place: Workspace) -> int:
    undo, labels = UndoRecord(place, _RECORD), _labels(options)
    mine = {
        path: record for path, record in undo.files.items() if any(each.server in labels for each in record.servers)
    }
    if not mine:
        raise CommandError(f"nothing to take back: `setup {options.program} --write` was not run in {place.root}")
    kept = [path for path, record in mine.items() if not _take_back(Path(path), record)]
    for path in mine.keys() - set(kept):
        del undo.files[path]
    undo.save()
    return FAILED if kept else 0


def _take_back(path: Path, record: WrappedFile) -> bool:
    """Whether our settings are out of the file again. Raises StoreError."""
    file = SettingsFile.open(path)
    result = unwrap(file, record)
    if result.exact and record.created:
        file.path.unlink(missing_ok=True)
    elif file.text.encode() != file.original:
        file.save()
    if result.changed and not result.exact:
        say(f"{short_path(str(path))}: our settings were changed since; what was changed stays as it is")
        return False
    done = "byte for byte as it was" if result.exact else "without our settings; what else was changed stays"
    say(f"done: {short_path(str(path))} is {done}")
    return True
