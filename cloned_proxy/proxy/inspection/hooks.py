"""What mitmproxy does when something breaks, turned round: it logs and carries on, here the connection ends.

Every hook is called directly; an exception of any kind, a hook that is missing, and a hook that returns without a
decision end the connection: 503 where nothing was sent yet, a reset elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any, Final, Literal

import structlog
from mitmproxy import flow as mitmflow
from mitmproxy import options
from mitmproxy.proxy import commands, mode_specs
from mitmproxy.proxy.server import LiveConnectionHandler
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from cloned_proxy.policy.vocabulary import Reason
from cloned_proxy.proxy import answers
from cloned_proxy.proxy.inspection.examiners import UnfitError
from cloned_proxy.proxy.inspection.exchange import Exchange
from cloned_proxy.proxy.inspection.parts import InspectionParts
from cloned_proxy.proxy.inspection.streams import ClientReader, ClientWriter

_log = structlog.get_logger(__name__)

_MODE: Final = mode_specs.ProxyMode.parse("regular")
"""It must be given one, and looks at it only for the layers that `make_layers` replaces."""
_EGRESS_HOOKS: Final = frozenset(
    {"requestheaders", "request", "responseheaders", "response", "error", "server_connect"}
)
_TLS_HOOKS: Final = frozenset({"tls_start_client", "tls_start_server", "tls_established_server", "tls_failed_server"})


class UndecidedError(Exception):
    """A hook returned and left neither a grant nor a refusal."""


class FailClosedHandler(LiveConnectionHandler):
    """One client connection, with the exchange at hand and the hooks that decide it."""

    def __init__(
        self, parts: InspectionParts, opts: options.Options, reader: ClientReader, writer: ClientWriter
    ) -> None:
        super().__init__(reader, writer, opts, _MODE)  # type: ignore[arg-type]  # the streams it uses, with our bounds
        self.parts = parts
        self.doomed = False
        """Ends in a reset instead of a polite close."""
        self._reader = reader
        self._exchange: Exchange | None = None

    @property
    def current(self) -> Exchange:
        """The exchange at hand. Raises UndecidedError when no head was read: nothing may happen then."""
        if self._exchange is None:
            raise UndecidedError("no request is under way")
        return self._exchange

    async def handle_hook(self, hook: commands.StartHook) -> None:
        """Calls the handler itself. Whatever comes out of it except a decision ends the connection."""
        name = hook.name
        if name in _EGRESS_HOOKS:
            target: object = self.parts.addon
        elif name in _TLS_HOOKS:
            target = self.parts.tls
        else:
            return
        (data,) = hook.args()
        try:
            await getattr(target, name)(self, data)
            self._check_decided(name, data)
        except BaseException as error:
            self._fail(name, data, error)
            if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
                raise

    def _check_decided(self, name: str, data: Any) -> None:
        """Not in the addon: it must hold for one that is broken, too."""
        if name not in ("requestheaders", "request") or data.error is not None:
            return
        exchange = self.current
        if exchange.grant is None or not exchange.grant.decision.passes:
            raise UndecidedError(f"{name} left neither a grant nor a refusal")

    def _fail(self, name: str, data: Any, error: BaseException) -> None:
        _log.error("a hook failed; its connection is closed", hook=name, error=repr(error))
        exchange = self._exchange
        if exchange is not None:
            exchange.answer, exchange.failure = answers.unavailable(), None
            exchange.cause = Reason.INTERNAL_ERROR.value
        if isinstance(data, mitmflow.Flow):
            data.error = mitmflow.Error(mitmflow.Error.KILLED_MESSAGE)
        elif isinstance(data, ServerConnectionHookData):
            data.server.error = "no grant"
        if name not in ("requestheaders", "server_connect"):
            self.cut(Reason.INTERNAL_ERROR.value)

    def log(
        self, message: str, level: int = logging.INFO, exc_info: Literal[True] | tuple[Any, ...] | None = None
    ) -> None:
        """Where mitmproxy says that one of its layers has crashed, and would leave the client hanging."""
        if level >= logging.ERROR and not isinstance(sys.exception(), UnfitError):
            _log.error("the inspection failed; its connection is closed", error=message, exc_info=exc_info)
            self.cut(Reason.INTERNAL_ERROR.value)

    def cut(self, cause: str) -> None:
        """Ends the connection at once, without a further byte."""
        self.doomed = True
        if self._exchange is not None and not self._exchange.cause:
            self._exchange.cause = cause
        self._reader.abort()
        for io in list(self.transports.values()):
            if io.handler is not None:
                io.handler.cancel(cause)
