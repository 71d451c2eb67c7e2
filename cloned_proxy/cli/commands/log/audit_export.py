"""Exports of the log: written to stdout, and checked without the database."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from cloned_proxy.cli.show.errors import FAILED, CommandError, say

if TYPE_CHECKING:
    from cloned_proxy.fleet.audit.bundle_check import BundleVerdict
    from cloned_proxy.fleet.signed.envelope import Trust

_SAY_EVERY: Final = 200_000
"""Entries between two words about how far it is: some seconds."""


def write_export(since: str | None, *, signed: bool, workspace: Path | None) -> None:
    """As `audit export --help` says. Raises CommandError or StoreError."""
    from cloned_proxy.cli.place.arguments import typed
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.fleet.link.libraries import need_libraries
    from cloned_proxy.policy.terms.units import parse_term

    start = None if since is None else time.time() - typed(parse_term, since, "--since")
    need_libraries()
    from cloned_proxy.fleet.audit.bundle import LogSource, export
    from cloned_proxy.fleet.audit.receipt import log_id, own_key, own_name
    from cloned_proxy.store.audit.audit_log import AuditLog
    from cloned_proxy.store.audit.database import writing

    place = existing_workspace(workspace)
    key = own_key(place) if signed else None
    source = LogSource(own_name(place.config().fleet, key), time.time(), key)
    with writing(place.state_db) as database:
        log_id(database)  # given now, so that the export itself only reads and holds up no proxy
    with AuditLog(place.state_db) as log, log.reading() as database:
        for line in export(database, start, source, progress=_progress):
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    if key is not None:
        say(f"signed by {source.replica}; check it with `cloned-proxy audit verify FILE --key {key.public}`")


def _progress(entries: int) -> None:
    if entries % _SAY_EVERY == 0 and sys.stderr.isatty():
        say(f"{entries} entries")


def verify_export(file: Path, key: str | None, *, as_json: bool) -> None:
    """As `audit verify --help` says of a FILE. Raises CommandError or StoreError."""
    from cloned_proxy.fleet.link.libraries import need_libraries

    need_libraries()
    from cloned_proxy.fleet.audit.bundle_check import check
    from cloned_proxy.fleet.signed.envelope import Trust

    trust: Trust | None = None
    if key is not None:
        try:
            trust = Trust([key])
        except ValueError as error:
            raise CommandError("--key: write the `ed25519:…` that `audit export --signed` has shown") from error
    verdict = check(_lines(file), trust)
    if as_json:
        _put_json(verdict)
    elif verdict.holds:
        _put_text(verdict)
    if not verdict.holds:
        if not as_json:
            for finding in verdict.findings:
                say(f"cloned-proxy: {file}: {finding}")
        raise typer.Exit(FAILED)


def _lines(file: Path) -> Iterator[bytes]:
    """Raises CommandError for a file that cannot be read."""
    from cloned_proxy.fleet.audit.bundle_check import MAX_LINE

    try:
        with file.open("rb") as opened:
            while line := opened.readline(MAX_LINE + 2):
                yield line.removesuffix(b"\n")
    except OSError as error:
        raise CommandError(f"{file}: cannot be read: {error.strerror}") from error


def _put_json(verdict: BundleVerdict) -> None:
    from cloned_proxy.cli.show.output import put_json, with_iso_times

    put_json(
        {
            "ok": verdict.holds,
            "signed": verdict.signed,
            "replica": verdict.replica,
            "log": verdict.log,
            "exported": with_iso_times({"at": verdict.at})["at"] if verdict.at else None,
            "entries": verdict.entries,
            "first_entry": verdict.first,
            "last_entry": verdict.last,
            "receipts": verdict.receipts,
            "receipts_forgotten": verdict.forgotten,
            "receipts_signed": verdict.signed and verdict.names_receipts,
            "findings": verdict.findings,
        }
    )


def _put_text(verdict: BundleVerdict) -> None:
    from cloned_proxy.cli.show.output import iso_time, put, visible

    span = f"entries {verdict.first} to {verdict.last}" if verdict.entries else "no entry"
    if verdict.signed:
        replica, at = visible(verdict.replica), iso_time(verdict.at)
        put(f"ok  {span} of {replica}, whole as signed at {at}, {verdict.receipts} receipts")
        if verdict.forgotten:
            say(
                f"{verdict.forgotten} older receipts are not in it: the log has had so many ids that theirs are "
                "forgotten; an export from before has them"
            )
        if not verdict.names_receipts:
            say(
                "it was exported by 0.2.0, which does not sign how many receipts there were: one that was taken out is "
                "not missed; export it again"
            )
    else:
        put(f"ok  {span}, the chain holds")
        say("no signature was checked: that shows accidents, and not what somebody did; use `--signed` and `--key`")
