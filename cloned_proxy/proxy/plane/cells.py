"""Counters that the plane counts in beside us: `proxy/grants/cells.py` with a second row, which is the plane's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import TracebackType
from typing import Final

from cloned_proxy.proxy.grants.cells import CELL_BYTES, Cells

ROWS: Final = 2


class PlaneTurn:
    """Held for "look and then take": against the threads of the plane, since ours is one."""

    def __init__(self) -> None:
        self.take: Callable[[], object] = lambda: None
        self.give: Callable[[], object] = lambda: None

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.give()


class PlaneCells:
    """A `CellStore`. The memory lasts as long as this object, which has to outlast the plane."""

    def __init__(self) -> None:
        self.turn: Final = PlaneTurn()
        self._cells: dict[tuple[str, int], tuple[Cells, int]] = {}

    def open(self, name: str, width: int) -> Cells:
        return self._opened(name, width)[0]

    def address(self, name: str, width: int) -> int:
        """Where they are, for the plane."""
        return self._opened(name, width)[1]

    def _opened(self, name: str, width: int) -> tuple[Cells, int]:
        found = self._cells.get((name, width))
        if found is None:
            # The memory is of ctypes, which aligns: the plane adds to it atomically.
            memory = (ctypes.c_uint64 * (width * ROWS))()
            values = memoryview(memory).cast("B").cast("Q")
            if values.itemsize != CELL_BYTES:  # cannot be, by the definition of the format
                raise ValueError("a counter has 64 bits")
            cells = Cells(values, width, 0, ROWS, self.turn)
            found = self._cells[name, width] = (cells, ctypes.addressof(memory))
        return found
