"""Gives receipts: every few minutes while the log grows, and at the stop, when nothing more comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from cloned_proxy.fleet.audit.receipt import Receipt, anchor_of, head_of, log_id, own_key, seal_receipt
from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.audit.database import writing
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.workspace import Workspace

_log = structlog.get_logger(__name__)

EVERY_SECONDS: Final = 300.0


class Notary:
    """One for each workspace: of several workers, the leading one's."""

    def __init__(
        self,
        workspace: Workspace,
        replica: str,
        *,
        clock: Callable[[], float] = time.time,
        seconds: float = EVERY_SECONDS,
    ) -> None:
        """Makes the replica's key if there is none. Raises StoreError."""
        self._database: Final = workspace.state_db
        self._key: Final[SigningKey] = own_key(workspace)
        self._replica: Final = replica
        self._clock: Final = clock
        self._seconds: Final = seconds

    async def work(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(self._seconds)
            await asyncio.to_thread(self.sign)

    def sign(self) -> Receipt | None:
        """Puts a receipt on record, unless the newest entry has one. What fails is said, and tried again next time."""
        try:
            return self._sign()
        except StoreError as error:
            _log.warning("no receipt could be given for the log", reason=str(error))
            return None

    def _sign(self) -> Receipt | None:
        with writing(self._database) as database:
            head = head_of(database)
            newest = database.execute("SELECT max(seq) FROM receipts").fetchone()[0]
            if head.seq in {0, newest}:
                return None
            receipt = Receipt(self._replica, log_id(database), head.seq, head.hash, self._clock())
            sealed = seal_receipt(receipt, self._key).decode("ascii")
            database.execute("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?)", (head.seq, receipt.at, sealed))
            # Those of entries that are gone prove nothing to anybody; the newest of them still covers the anchor.
            database.execute(
                "DELETE FROM receipts WHERE seq < (SELECT max(seq) FROM receipts WHERE seq <= ?)",
                (anchor_of(database).seq,),
            )
            return receipt
