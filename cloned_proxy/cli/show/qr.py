"""A link as a QR code, where a terminal can show one."""

from __future__ import annotations

import io
import os
import shutil
import sys
from typing import Final

_BORDER: Final = 2


def show_qr(link: str) -> None:
    """Draws it on stderr with half blocks; nothing where that is no terminal, is too narrow, or cannot print them."""
    if not sys.stderr.isatty() or os.environ.get("TERM") in (None, "dumb", "linux"):
        return
    import segno

    code = segno.make(link, micro=False)
    drawn = io.StringIO()
    code.terminal(drawn, border=_BORDER, compact=True)
    if code.symbol_size(border=_BORDER)[0] > shutil.get_terminal_size().columns:
        return
    try:
        drawn.getvalue().encode(sys.stderr.encoding)
    except UnicodeEncodeError:
        return
    print(drawn.getvalue().rstrip("\n"), file=sys.stderr)  # noqa: T201  a drawing, not a message
