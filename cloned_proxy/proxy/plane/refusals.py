"""What the plane may refuse by itself: CONNECTs that we have refused at least twice, for as long as we know it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from typing import Final

from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.enforce.known_refusals import KnownRefusal
from cloned_proxy.proxy.enforce.record import owner_of
from cloned_proxy.proxy.grants.denial_budget import ACCOUNT_WIDTH, account_name
from cloned_proxy.proxy.plane.cells import PlaneCells
from cloned_proxy.proxy.plane.counted import Counted, retire
from cloned_proxy.proxy.plane.entries import PlaneEntries
from cloned_proxy.proxy.plane.forms import refusal_content
from cloned_proxy.proxy.plane.library import RefusalForm
from cloned_proxy.proxy.plane.verdicts import limit_of
from cloned_proxy.telemetry.events import Kind

_OF_HEAD: Final = b"\x03"


class PlaneRefusals:
    """Everything of that kind, on the event loop. `plane` is the handle of the running plane."""

    def __init__(
        self,
        library: ctypes.CDLL,
        plane: int,
        *,
        enforcer: Enforcer,
        cells: PlaneCells,
        entries: PlaneEntries,
        numbers: Iterator[int],
    ) -> None:
        """`numbers` are those of all verdicts of this plane."""
        self._library: Final = library
        self._plane: Final = plane
        self._enforcer: Final = enforcer
        self._cells: Final = cells
        self._entries: Final = entries
        self._numbers: Final = numbers
        self.known: Final[dict[int, Counted]] = {}

    def publish(self, listener: int, head: bytes, known: KnownRefusal, until: float) -> None:
        """Lets the plane tell the same to whoever sends the same head there, until then (monotonic seconds)."""
        event, per_minute = self._enforcer.refused_alike(known.caller, known.refusal, Kind.TUNNEL)
        content = refusal_content(event, known.answer, known.refusal.id)
        if not content:
            return
        number = next(self._numbers)
        self._entries.know(number, event)
        what = RefusalForm(
            number=number,
            expires=int(until * 1e6),
            account=self._cells.address(account_name(owner_of(known.caller)), ACCOUNT_WIDTH),
            per_minute=limit_of(per_minute),
        )
        key = listener.to_bytes(4, "little") + _OF_HEAD + head
        handle = self._library.plane_publish_refusal(
            self._plane, key, len(key), ctypes.byref(what), content, len(content)
        )
        if handle is not None:
            self.known[number] = Counted(number, event, until, handle)

    def retire(self) -> list[int]:
        """Frees what is over; returns the numbers."""
        now = time.monotonic()
        ended = [each for each in self.known.values() if each.live and now >= each.expires]
        return retire(self._library, self.known, ended, self._withdraw)

    def _withdraw(self, refusal: Counted) -> None:
        self._library.verdict_withdraw(refusal.handle)
        refusal.live = False
