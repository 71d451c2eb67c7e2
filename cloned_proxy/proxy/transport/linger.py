"""How a client connection ends: FIN behind the last answer, and how long it is still read (RFC 9112, section 9.6).

The reset that follows unread bytes would destroy the last answer on its way, so what comes behind it is read and thrown
away, but only as much of it as an honest client has on the way.
"""

from __future__ import annotations

import asyncio
from typing import Final

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 1_048_576


def send_fin(transport: asyncio.WriteTransport) -> None:
    """FIN behind what was written. Of a client that is gone already the transport is closed."""
    try:
        transport.write_eof()
    except OSError:
        # A transport of asyncio's own shuts its socket down at once, which the system refuses behind a reset.
        transport.abort()
