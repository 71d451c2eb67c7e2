"""How each guard of the native plane is taken out: in the verdicts that Python publishes for it.

The library is the one that ships, without a switch for tests: it is told what to look at, and here it is told less.
"""

from __future__ import annotations

import math
from typing import Any, Final

from cloned_proxy.proxy.plane import forms, verdicts
from cloned_proxy.proxy.upstream.ways import KnownWay, Ways
from tests.net.guards import Patch, replace_part


def _directly() -> None:
    """Verdicts lead to the target itself, whatever proxy is in front."""

    def known(_: Any, granted: Any) -> KnownWay:
        return KnownWay(granted.addresses, granted.decision.request.port, b"", math.inf)

    replace_part(Ways, "known", known)


PLANE_GUARDS: Final[dict[str, Patch]] = {
    "plane: the ClientHello": lambda: replace_part(verdicts, "needs_hello", lambda _: False),
    "plane: who asks": lambda: replace_part(forms, "credential_fields", lambda _: ()),
    "plane: taking back": lambda: replace_part(verdicts.Verdicts, "forget", lambda _: None),
    "plane: the proxy in front": _directly,
}
