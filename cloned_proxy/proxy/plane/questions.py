"""What the plane asks: CONNECTs that it has no verdict on. Where Python makes one the plane goes on by itself.

A verdict costs less than a tunnel in Python. Where none is to be had the connection stays there, like any other that
the plane hands over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from cloned_proxy.policy.callers.identity import identify
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.proxy.plane.verdicts import Verdicts
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.tunnel.gate_services import GateServices
from cloned_proxy.proxy.wire.head import EMPTY_LINE, Head, HeadError, parse_head

_log = structlog.get_logger(__name__)


class Questions:
    """Those of one plane, on the event loop."""

    def __init__(self, services: GateServices, verdicts: Verdicts, number_of: Callable[[Listener], int | None]) -> None:
        """`number_of` a listener, as the plane knows it; None where the plane grants nothing any more."""
        self._services: Final = services
        self.verdicts: Final = verdicts
        self._number_of: Final = number_of

    def head_of(self, data: bytes) -> Head | None:
        """The head at the start of what a client has sent; None where its reader has to say what is wrong with it."""
        found = EMPTY_LINE.search(data)
        try:
            head = data[: found.end()] if found is not None else b""
            return parse_head(head, max_fields=self._services.settings.max_head_fields)
        except HeadError:
            return None

    def settle(self, listener: Listener, head: Head) -> bool:
        """Whether the plane has a verdict on a CONNECT with this head from now on."""
        number = self._number_of(listener)
        try:
            return number is not None and not self._services.stopping() and self._settle(number, listener, head)
        except Exception:  # noqa: BLE001  logged; whatever it was, the gate has the client and refuses it for that
            _log.exception("a question of the plane cannot be answered")
            return False

    def _settle(self, number: int, listener: Listener, head: Head) -> bool:
        services = self._services
        caller = identify(head.fields, tokens=services.tokens, now=services.clock(), listener=listener.principal)
        if services.enforcer.behind(caller):  # who waits for the log, or for a refusal, does so here
            return False
        grant = services.enforcer.prospect(caller, Request(head.host, head.port))
        return grant is not None and self.verdicts.answer(number, head, grant)
