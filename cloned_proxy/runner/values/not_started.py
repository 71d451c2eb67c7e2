"""How a container's init says that it could not even start the command. Pure.

Shells and inits give 126 to what is found and not executable, and 127 to what is not found (POSIX.1-2024, XCU 2.8.2).
"""

from __future__ import annotations

import os
import re
from typing import Final

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
_COMPLAINT: Final = rb"exec:?(?: line \d+:)? %b(?: failed)?: |failed to exec pid1: "
"""As said by tini (`exec X failed: …`), by dash and bash (`exec: X: …`), by busybox, and by Podman's catatonit."""


def complains_of(word: str, said: bytes) -> bool:
    """Whether the last line says of the word that it could not be started."""
    last = said.strip().rpartition(b"\n")[2]
    return re.search(_COMPLAINT % re.escape(os.fsencode(word)), last) is not None


def never_started(code: int, word: str, said: bytes) -> bool:
    """Whether an exit code is not the command's own, because there was none."""
    return code in (NOT_FOUND, NOT_EXECUTABLE) and complains_of(word, said)
