"""How long a closed client connection is still read (RFC 9112, section 9.6).

The reset that follows unread bytes would destroy the last answer on its way, so what comes behind it is read and thrown
away, but only as much of it as an honest client has on the way.
"""

from __future__ import annotations

from typing import Final

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 1_048_576
