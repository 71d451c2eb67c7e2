"""`log --fleet`: what all replicas have on record, as the store of the fleet has it, merged by time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from cloned_proxy.cli.show.errors import FAILED, CommandError, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cloned_proxy.fleet.audit.audit_read import FleetEntry, FleetLog
    from cloned_proxy.store.workspaces.workspace import Workspace

_POLL_SECONDS: Final = 0.5


def print_fleet_log(
    *,
    follow: bool,
    denied: bool,
    tool: str | None,
    since: str | None,
    limit: int | None,
    workspace: Path | None,
    as_json: bool,
) -> None:
    """As `log --help` says of --fleet. Raises CommandError or StoreError."""
    import time

    from cloned_proxy.cli.commands.log.log_reader import newest_shown
    from cloned_proxy.cli.place.arguments import typed
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.policy.terms.units import parse_term

    start = None if since is None else time.time() - typed(parse_term, since, "--since")
    printer = _Printer(denied=denied, tool=tool, newest=newest_shown(limit), as_json=as_json)
    try:
        asyncio.run(_print(existing_workspace(workspace), start, printer, follow=follow))
    except KeyboardInterrupt:  # the way to end `-f`
        return
    if not printer.told:
        say("nothing on record that matches" if denied or tool or since else "nothing on record yet")
    if printer.warned:
        raise typer.Exit(FAILED)


async def _print(place: Workspace, start: float | None, printer: _Printer, *, follow: bool) -> None:
    from cloned_proxy.fleet.link.libraries import need_libraries
    from cloned_proxy.fleet.signed.errors import StoreAwayError

    settings = place.config()
    if settings.fleet is None:
        raise CommandError(f"{place.config_file}: this proxy is in no fleet; docs/fleet.md says how it joins one")
    need_libraries()
    import os

    from cloned_proxy.fleet.audit.audit_read import FleetLog
    from cloned_proxy.fleet.link.link import Link
    from cloned_proxy.fleet.link.names import Names
    from cloned_proxy.store.vault.live_vault import LiveVault
    from cloned_proxy.store.vault.vault import Vault

    vault = LiveVault(Vault(place, settings.vault.key), os.environ)
    async with Link(settings.fleet, base=place.root, secrets=vault) as link:
        log = FleetLog(link, Names(settings.fleet.name), settings.fleet.audit_keys)
        while True:
            try:
                printer.print(log, await log.read(start))
            except StoreAwayError as error:
                if not follow or not printer.connected:
                    raise CommandError(f"the store of the fleet does not answer: {error}", code=FAILED) from error
            if not follow:
                return
            await asyncio.sleep(_POLL_SECONDS)


class _Printer:
    """Says what was read, and what is wrong with it."""

    def __init__(self, *, denied: bool, tool: str | None, newest: int, as_json: bool) -> None:
        self._denied: Final = denied
        self._tool: Final = tool
        self._newest: Final = newest
        """How many of what is there already are printed; 0: all."""
        self._as_json: Final = as_json
        self.told = False
        self.warned = False
        self.connected = False
        """Whether the store has answered at all."""

    def print(self, log: FleetLog, entries: Sequence[FleetEntry]) -> None:
        from cloned_proxy.cli.show.output import put, visible

        told = [list(lines) for lines in map(self._lines, entries)]
        told = [lines for lines in told if lines]
        for lines in told if self.connected else told[-self._newest :]:
            for line in lines:
                put(line)
            self.told = True
        self.connected = True
        for finding in log.findings.lines():
            say(f"cloned-proxy: {visible(finding)}")
            self.warned = True
        log.findings.clear()

    def _lines(self, entry: FleetEntry) -> Iterator[str]:
        from cloned_proxy.cli.commands.log.log_reader import is_shown
        from cloned_proxy.cli.show.entries import lines
        from cloned_proxy.cli.show.output import json_line, visible, with_iso_times

        body = entry.body
        if not is_shown(body, denied=self._denied, tool=self._tool):
            return
        if self._as_json:
            yield json_line({"replica": entry.replica, "log": entry.log, "seq": entry.seq, **with_iso_times(body)})
            return
        try:
            yield from (f"{visible(entry.replica)}  {line}" for line in lines(body))
        except (LookupError, TypeError, ValueError, OverflowError):
            yield f"{visible(entry.replica)}  entry {entry.seq}: not as this program writes it"
