"""What a replica keeps on disk: the last policy that was in force, and by its number that nothing older ever is again.

Both are one file, replaced in one step and synced, so that no crash leaves the one without the other. The envelope is
kept as it came: at the next start its signature is checked again. All workers of a proxy share the file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloned_proxy.fleet.signed.envelope import MAX_BYTES
from cloned_proxy.fleet.signed.errors import EnvelopeError, FleetError, Refused
from cloned_proxy.fleet.signed.statement import NOTHING, Number, Statement
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.lock import locked
from cloned_proxy.store.leases.deadline import boot_id
from cloned_proxy.store.workspaces.workspace import Workspace

_MAX_SMALL: Final = 4096


@dataclass(frozen=True, slots=True)
class Kept:
    """What the file says."""

    number: Number = NOTHING
    sha256: str = ""
    envelope: bytes = b""

    def check(self, statement: Statement) -> None:
        """Raises EnvelopeError for one that is older than this, or another one of the same number."""
        if statement.number < self.number:
            raise EnvelopeError(
                Refused.ROLLBACK,
                f"it is version {statement.number}, and {self.number} was in force here; publish under a newer number",
            )
        if statement.number == self.number and statement.sha256 != self.sha256:
            raise EnvelopeError(
                Refused.CONFLICT,
                f"it is another version {self.number} than was in force here; publish under a newer number",
            )


class Shelf:
    """The directory `.cloned/fleet`."""

    def __init__(self, workspace: Workspace) -> None:
        self.directory: Final = workspace.fleet_directory
        self._file: Final = self.directory / "policy.dsse.json"
        self._heard: Final = self.directory / "heard.json"
        self._copy: Final = workspace.fleet_policy
        self._presets: Final = workspace.fleet_presets

    def create(self) -> None:
        """Makes the directory (0700). Raises StoreError."""
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.directory}: cannot be made: {error.strerror}") from error

    def load(self) -> Kept:
        """What was kept, unproven but for the number. Raises FleetError for a file that cannot be read.

        It is never taken for none: an older policy would come in force then.
        """
        if not self._file.exists(follow_symlinks=False):
            return Kept()
        try:
            text = read_regular_file(self._file, limit=2 * MAX_BYTES, what="policy of the fleet")
            document = json.loads(text)
            number = Number(int(document["epoch"]), int(document["version"]))
            return Kept(number, str(document["sha256"]), str(document["envelope"]).encode())
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FleetError(
                f"{self._file}: damaged, so nobody knows what may be older than it; delete it if you trust what the "
                "store has now"
            ) from error

    def keep(self, statement: Statement, envelope: bytes) -> None:
        """Keeps this one unless a newer one is kept already. Raises StoreError, with the old one as it was."""
        with locked(self._file):
            kept = self.load()
            if kept.number >= statement.number:
                return
            document = {
                "epoch": statement.number.epoch,
                "version": statement.number.version,
                "sha256": statement.sha256,
                "envelope": envelope.decode("ascii"),
            }
            write_atomically(self._file, json.dumps(document).encode())

    def show(self, statement: Statement) -> None:
        """Writes the policy and its presets for people and for commands that look. Nothing enforces them."""
        with locked(self._file):
            write_atomically(self._copy, statement.policy)
            shutil.rmtree(self._presets, ignore_errors=True)
            for name, text in statement.presets.items():
                self._presets.mkdir(mode=0o700, exist_ok=True)
                write_atomically(self._presets / f"{name}.yaml", text)

    def hide(self) -> None:
        """Takes away what `show` wrote."""
        self._copy.unlink(missing_ok=True)
        shutil.rmtree(self._presets, ignore_errors=True)

    def heard(self, *, now: float, up: float) -> None:
        """Notes that the source was heard. Raises StoreError."""
        write_atomically(self._heard, json.dumps({"wall": now, "up": up, "boot": boot_id()}).encode())

    def unheard_seconds(self, *, now: float, up: float) -> float:
        """For how long the source had not been heard when this process began; infinite where nobody can tell."""
        try:
            noted: Mapping[str, Any] = json.loads(read_regular_file(self._heard, limit=_MAX_SMALL, what="note"))
            if noted["boot"] and noted["boot"] == boot_id():
                return max(0.0, up - float(noted["up"]))
            # Another boot: only the wall clock tells, and one that is before the note tells nothing.
            since = now - float(noted["wall"])
        except (StoreError, ValueError, KeyError, TypeError):
            return float("inf")
        return since if since >= 0 else float("inf")
