"""The policy of cloned-proxy for someone's own mitmproxy: `CLONED_POLICY=policy.yaml mitmweb -s egress.py`.

A SCRIPT CANNOT ENFORCE. Use it to watch and to debug, on another machine than the one that serves; `cloned-proxy serve`
is the enforcement point. What is lost here, whatever this file does:

- mitmproxy FAILS OPEN: it logs an exception in any addon's hook and forwards the request. A script that an edit broke,
  or that was deleted, is simply gone. Another addon can halt the chain before this one is asked.
- `ignore_hosts`, `tcp_hosts`, `allow_hosts` let tunnels pass undecided (refused at start, not when they are set later).
- mitmproxy's own lenient head parser is in front: bare LF, any HTTP version and heads without bound reach the hooks.
- No audit log, limits, leases or credentials: the caller is `CLONED_TOOL`, or anonymous.
- mitmweb's own interface can be reached through the proxy unless the policy keeps private addresses shut.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from mitmproxy import ctx, exceptions, http
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from cloned_proxy.policy.callers.caller import ANONYMOUS, CallerSource, Principal
from cloned_proxy.policy.deciding.decide import decide
from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.policy.terms.decision import Decision, Request
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.workspaces.presets import PresetShelf

_log = logging.getLogger(__name__)
_PASSTHROUGH = ("ignore_hosts", "allow_hosts", "tcp_hosts", "udp_hosts")


def _deny_on_fault(
    hook: Callable[[ScriptedEgress, Any], Awaitable[None]],
) -> Callable[[ScriptedEgress, Any], Coroutine[Any, Any, None]]:
    """The most that a script can do: whatever goes wrong in its own hook refuses."""

    @functools.wraps(hook)
    async def guarded(self: ScriptedEgress, data: Any) -> None:
        try:
            await hook(self, data)
        except BaseException:  # noqa: BLE001  logged below; whatever it was must refuse
            _log.exception("the hook %s failed; the flow is refused", hook.__name__)
            if isinstance(data, http.HTTPFlow):
                _refuse(data, "internal_error")
            else:
                data.server.error = "internal_error"

    return guarded


class ScriptedEgress:
    def __init__(self) -> None:
        tool = os.environ.get("CLONED_TOOL")
        self._caller = ANONYMOUS if tool is None else Principal(tool, source=CallerSource.LISTENER)
        self._path = Path(os.environ.get("CLONED_POLICY", "policy.yaml"))
        self._policy: Policy | None = None
        self._stamp: object = None
        self._approved: dict[tuple[str, str, int], Decision] = {}
        """(client connection, host, port): the token that a dial needs."""

    def running(self) -> None:
        _log.warning(
            "egress.py: a mitmproxy script CANNOT ENFORCE a policy: mitmproxy fails open when a hook breaks. "
            "Use `cloned-proxy serve` to enforce; read the head of this file."
        )
        if open_options := [name for name in _PASSTHROUGH if getattr(ctx.options, name)]:
            raise exceptions.OptionsError(f"egress.py: {', '.join(open_options)} would let tunnels pass undecided")  # type: ignore[no-untyped-call]
        # Nothing is dialled before a decision, and nothing passes that is not HTTP/1.1.
        ctx.options.update(connection_strategy="lazy", rawtcp=False, http2=False, http3=False)  # type: ignore[no-untyped-call]
        self._reload()

    @_deny_on_fault
    async def http_connect(self, flow: http.HTTPFlow) -> None:
        self._decide(flow, Request(flow.request.data.host, flow.request.port))

    @_deny_on_fault
    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        request = flow.request
        host = request.data.host  # never `pretty_host`: that is the Host header, which the caller writes
        if self._decide(flow, Request(host, request.port, request.method, request.path)):
            request.headers["Host"] = host if request.port in (80, 443) else f"{host}:{request.port}"
            for name in [n for n in request.headers if n.lower().startswith(("proxy-", "x-cloned-"))]:
                request.headers.pop(name, None)

    @_deny_on_fault
    async def server_connect(self, data: ServerConnectionHookData) -> None:
        """The one hook whose error stops mitmproxy before DNS and TCP."""
        data.server.error = "no decision"
        if data.server.address is None or data.server.via is not None:
            return
        host, port = data.server.address[:2]
        decision = self._approved.get((data.client.id, host, port))
        if decision is None or decision.host is None:
            return
        found = await asyncio.get_running_loop().getaddrinfo(decision.host.text, port, type=1)
        addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
        if decide_addresses(decision, addresses, ()).passes:
            data.server.address = (str(addresses[0]), port)
            data.server.error = None

    def client_disconnected(self, client: Any) -> None:
        self._approved = {key: value for key, value in self._approved.items() if key[0] != client.id}

    def _decide(self, flow: http.HTTPFlow, request: Request) -> bool:
        self._reload()
        decision = decide(self._policy, self._caller, request, time.time())
        if not decision.passes or decision.host is None or (decision.rule is not None and decision.rule.inject):
            _refuse(flow, decision.reason.value)
            return False
        self._approved[flow.client_conn.id, request.host, request.port] = decision
        return True

    def _reload(self) -> None:
        """Last good stays in force, as in `serve`; before the first good one everything is refused."""
        try:
            info = self._path.stat()
            shelf = PresetShelf(self._path.parent / "presets")
            if self._stamp != (stamp := (info.st_mtime_ns, info.st_ino, shelf.signature())):
                self._stamp = stamp
                self._policy = load_policy(self._path, time.time(), shelf)
        except (OSError, PolicyError, StoreError) as error:
            _log.error("egress.py: %s", error)


def _refuse(flow: http.HTTPFlow, reason: str) -> None:
    flow.response = http.Response.make(403, f"{reason}\n", {"X-Cloned-Proxy-Reason": reason, "Connection": "close"})


addons = [ScriptedEgress()]
